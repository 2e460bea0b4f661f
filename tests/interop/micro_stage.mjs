// micro_stage.mjs - plays every part of a recorded transcript but one, over real sockets, and
// compares what that one (the subject) sends. The vectors' README says what may differ.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { WebSocket, WebSocketServer } from "ws";
import { freeEndpoint, sleep, until } from "./scene.mjs";

export const RECORDED_PORTS = {
    registry: 29000,
    provider: 29001,
    consumer: 29002,
    provider2: 29003,
    consumer2: 29004,
};
const HEARTBEAT = "/-/heartbeat";
const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const GAP_MS = 320; // the longest pause of a recording that matters
const FRAME_MS = 15000;

export const freePort = async () => Number((await freeEndpoint()).split(":").at(-1));

// --- comparing -----------------------------------------------------------------------------

/** Whether `actual` is what the recording wants. `bound` keeps the values of placeholders. */
function same(wanted, actual, bound, strict) {
    if (wanted === "<uuid>") {
        if (typeof actual !== "string" || !UUID.test(actual)) return false;
        return (bound.uuid ??= actual) === actual;
    }
    if (wanted === "<epoch-ms>") return Number.isInteger(actual) && actual > 1.6e12;
    if (wanted === "<seconds>") return typeof actual === "number" && actual >= 0;
    if (typeof wanted === "string" && wanted.startsWith("Cannot read properties of"))
        return typeof actual === "string" && actual !== "";
    if (typeof wanted !== "object" || wanted === null) return wanted === actual;
    if (typeof actual !== "object" || actual === null) return false;
    if (Array.isArray(wanted) !== Array.isArray(actual)) return false;
    const names = Object.keys(wanted);
    if (names.length !== Object.keys(actual).length) return false;
    return names.every(
        (name) => Object.hasOwn(actual, name) && same(wanted[name], actual[name], bound, strict),
    );
}

/** Puts values into the placeholders of a frame that is to be sent. */
function filled(value, bound) {
    if (value === "<uuid>") return (bound.uuid ??= crypto.randomUUID());
    if (value === "<epoch-ms>") return Date.now();
    if (value === "<seconds>") return 12.5;
    if (Array.isArray(value)) return value.map((item) => filled(item, bound));
    if (typeof value !== "object" || value === null) return value;
    return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, filled(v, bound)]));
}

const isHeartbeat = (json) => json?.mode === 0 && json.data?.url === HEARTBEAT;

/** A frame without what may differ: its id, and for others than the originals `stream: false`. */
function bare(json, strict) {
    const { id: _, ...rest } = json;
    if (!strict && json.mode !== 1 && rest.stream === false) delete rest.stream;
    if (json.mode === 2) delete rest.data; // an id, compared apart
    return rest;
}

// --- one connection ------------------------------------------------------------------------

class Line {
    constructor(stage, id, socket) {
        Object.assign(this, { stage, id, socket });
        this.ids = new Map(); // recorded id of a request of the subject -> the real one
        this.used = new Set();
        this.bound = new Map(); // direction and id of a request -> values of placeholders
        this.wanted = stage.frames.filter((f) => f.connection === id && stage.fromSubject(f));
        this.unexpected = [];
        socket.on("close", (code) => {
            this.code = code;
        });
        socket.on("message", (data) => this.receive(JSON.parse(data)));
        socket.on("error", () => {});
    }

    bindings(direction, id) {
        const name = `${direction} ${id}`;
        if (!this.bound.has(name)) this.bound.set(name, {});
        return this.bound.get(name);
    }

    receive(json) {
        if (!this.stage.begun) {
            this.stage.auto(this.socket, json);
            return;
        }
        if (json.mode !== 1) {
            assert.ok(Number.isSafeInteger(json.id) && json.id >= 0, `id ${json.id}`);
            if (json.mode === 0 && this.used.has(json.id)) this.unexpected.push(json);
            this.used.add(json.id);
        }
        const at = this.wanted.findIndex((frame) => this.matches(frame, json));
        if (at >= 0) {
            const [frame] = this.wanted.splice(at, 1);
            frame.matched = true;
            if (frame.json.mode === 0) this.ids.set(frame.json.id, json.id);
        } else if (!isHeartbeat(json)) this.unexpected.push(json);
    }

    matches(frame, json) {
        const { strict } = this.stage;
        const want = frame.json;
        if (frame.opcode !== "text" || want.mode !== json.mode) return false;
        if (want.mode === 1 && want.id !== json.id) return false;
        if (want.mode === 2 && this.ids.get(want.data) !== json.data) return false;
        // A trial: values stick to placeholders only if the whole frame fits.
        const kept = this.bindings(want.mode === 1 ? "out" : "in", want.id);
        const trial = { ...kept };
        const fits = same(bare(want, strict), bare(json, strict), trial, strict);
        if (fits) Object.assign(kept, trial);
        return fits;
    }

    send(frame) {
        if (frame.json === undefined) {
            this.socket.send(frame.text);
            return;
        }
        const json = filled(frame.json, this.bindings(frame.json.mode === 1 ? "in" : "out", frame.json.id));
        if (json.mode === 1 && this.ids.has(json.id)) json.id = this.ids.get(json.id);
        this.socket.send(JSON.stringify(json));
    }
}

// --- the stage -----------------------------------------------------------------------------

export class Stage {
    /** `subject`: the role under test; `strict`: it is one of the originals. */
    constructor(transcript, subject, { strict, scene = {} }) {
        Object.assign(this, { subject, strict, scene });
        this.recording = transcript;
        this.begun = false;
        this.lines = new Map();
        this.listeners = new Map();
        this.sockets = new Set();
        this.passed = -1;
        this.revision = 0;
    }

    async open() {
        this.ports = {};
        for (const role of Object.keys(RECORDED_PORTS)) this.ports[role] = await freePort();
        const copy = JSON.parse(this.translate(JSON.stringify(this.recording)));
        this.scene.edit?.(copy);
        Object.assign(this, { connections: copy.connections, frames: copy.frames });
        this.outcome = copy.outcome;
        for (const role of ["registry", "provider", "provider2"])
            if (role !== this.subject) await this.listen(role);
    }

    /** The recorded ports are part of the data; here every run has its own. */
    translate(text) {
        const roles = Object.fromEntries(
            Object.entries(RECORDED_PORTS).map(([role, port]) => [port, role]),
        );
        return text.replace(/\b2900[0-4]\b/g, (port) => this.ports[roles[port]]);
    }

    fromSubject(frame) {
        const { client, server } = this.connections.find((c) => c.id === frame.connection);
        const sender = frame.direction === "client-to-server" ? client : server;
        return sender === this.subject;
    }

    // --- as a server -----------------------------------------------------------------------

    async listen(role) {
        const http = createServer();
        const server = new WebSocketServer({ server: http, perMessageDeflate: false });
        server.on("connection", (socket, request) => this.arrived(role, socket, request));
        http.listen(this.ports[role], "127.0.0.1");
        await once(http, "listening");
        this.listeners.set(role, { http, server });
    }

    /** Takes a server of the stage down: its connections close, its port refuses. */
    async down(role) {
        const { http, server } = this.listeners.get(role);
        const closed = new Promise((resolve) => http.close(resolve));
        server.close();
        for (const socket of server.clients) socket.close();
        const cut = setTimeout(() => {
            for (const socket of server.clients) socket.terminate();
        }, 500);
        await closed;
        clearTimeout(cut);
    }

    arrived(role, socket, request) {
        this.sockets.add(socket);
        const connection = this.connections.find(
            (c) => c.client === this.subject && c.server === role && !c.taken,
        );
        if (!connection) {
            socket.on("message", (data) => this.auto(socket, JSON.parse(data)));
            socket.on("error", () => {});
            return;
        }
        connection.taken = true;
        connection.arrivedAt = request.url;
        this.lines.set(connection.id, new Line(this, connection.id, socket));
    }

    /** Answers what no recording covers: the time before it, and connections outside it. */
    auto(socket, json) {
        if (json.mode !== 0 || !json.twoway) return;
        const { url, data } = json.data;
        let answer;
        if (url === "/-/find") {
            const role = ["provider", "provider2"].find(
                (name) => !data.exclude?.includes(`127.0.0.1:${this.ports[name]}`),
            );
            answer = role && { host: "127.0.0.1", port: this.ports[role] };
        } else if (url === "/-/declare") answer = ++this.revision;
        else if (url === "/-/subscribe") answer = { hasData: false };
        socket.send(
            JSON.stringify({
                id: json.id,
                mode: 1,
                twoway: false,
                data: { status: 200, data: answer },
            }),
        );
    }

    // --- as a client -----------------------------------------------------------------------

    async dial(path) {
        const socket = new WebSocket(`ws://127.0.0.1:${this.ports[this.subject]}${path}`);
        this.sockets.add(socket);
        // Listeners first: what comes with the answer to the upgrade must not be lost.
        return { socket, opened: once(socket, "open") };
    }

    async openLine(connection) {
        const { socket, opened } = await this.dial(connection.upgrade.path);
        let extensions;
        socket.on("upgrade", (response) => {
            extensions = response.headers["sec-websocket-extensions"];
        });
        this.lines.set(connection.id, new Line(this, connection.id, socket));
        await opened;
        assert.equal(extensions, undefined, "an extension was negotiated");
    }

    // --- the play --------------------------------------------------------------------------

    /** Resolves when the recording has come to `index`: everything before it has happened. */
    frame(index) {
        return until(`frame ${index}`, () => this.passed >= index - 1, FRAME_MS * 2);
    }

    line(connection) {
        return until(`${connection} to open`, () => this.lines.get(connection), FRAME_MS);
    }

    async play() {
        this.begun = true;
        const opens = this.scene.opens ?? {};
        const mine = this.connections.filter(
            (c) => c.server === this.subject && !this.scene.skip?.includes(c.id),
        );
        for (const path of this.scene.before?.[this.subject] ?? [])
            await (await this.dial(this.translate(path))).opened;
        const openDue = async (index) => {
            for (const connection of mine)
                if (!connection.taken && (opens[connection.id] ?? 0) <= index) {
                    connection.taken = true;
                    await this.openLine(connection);
                }
        };
        await openDue(0);
        const started = Date.now();
        let recordedAt = 0;
        let dueAt = started;
        for (const [index, frame] of this.frames.entries()) {
            await openDue(index);
            const fresh = !this.scene.skip?.includes(frame.connection);
            const connection = this.connections.find((c) => c.id === frame.connection);
            const concerned = [connection.client, connection.server].includes(this.subject);
            dueAt += Math.min(Math.max(frame.t - recordedAt, 0), GAP_MS);
            recordedAt = Math.max(frame.t, recordedAt);
            if (fresh && concerned) await this.step(frame, dueAt, index);
            this.passed = index;
        }
        await openDue(Infinity);
    }

    async step(frame, dueAt, index) {
        const line = await this.line(frame.connection);
        if (frame.opcode === "close") {
            if (line.closing) return; // the answer to the other one's close
            line.closing = true;
            if (this.fromSubject(frame)) await this.closing(line, index);
            else line.socket.close();
        } else if (this.fromSubject(frame)) {
            const what = `frame ${index} on ${line.id}: ${frame.text}`;
            await until(what, () => frame.matched || this.scene.optional?.(frame), FRAME_MS).catch(
                (error) => {
                    error.message += `; unexpected: ${JSON.stringify(line.unexpected)}`;
                    throw error;
                },
            );
        } else {
            await sleep(Math.max(dueAt - Date.now(), 0));
            line.send(frame);
        }
    }

    async closing(line, index) {
        await until(`frame ${index}: ${line.id} to close`, () => line.code !== undefined);
        assert.equal(line.code, 1005, `frame ${index}: ${line.id} closes without a code`);
    }

    /** What came beyond the recording, after a moment for it to come. */
    async leftovers() {
        await sleep(60);
        const out = [];
        for (const line of this.lines.values())
            for (const json of line.unexpected)
                if (!this.scene.allow?.(json)) out.push(`${line.id}: ${JSON.stringify(json)}`);
        return out;
    }

    checkPaths() {
        for (const { client, arrivedAt, upgrade } of this.connections)
            if (client === this.subject && arrivedAt !== undefined)
                assert.equal(arrivedAt, upgrade.path, "path");
    }

    async close() {
        for (const socket of this.sockets) socket.terminate();
        for (const { http, server } of this.listeners.values()) {
            for (const socket of server.clients) socket.terminate();
            server.close();
            http.close();
        }
    }
}
