// hub_peers.mjs - what the tests of the hub share: a nats-server, processes that hold instances of
// one implementation, WebSocket clients of their demo application, and one who listens on NATS.
// npm is the foreign instance of hub_instance.mjs, lua is znlrun.
//
//   ZNLRUN     the binary; default ../../build/znlrun. Without it the pairs with lua are skipped.
//   ZNL_HUB    only these: "npm,lua"
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { connect } from "nats";
import { WebSocket } from "ws";
import { startNats } from "./nats_server.mjs";
import { Peer, SKIP_LUA, until } from "./scene.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const VECTORS = process.env.ZNL_HUB_VECTORS ?? join(here, "../vectors/ws-cluster");
export const vectors = (name) => JSON.parse(readFileSync(join(VECTORS, `${name}.json`)));

const WANTED = (process.env.ZNL_HUB ?? "npm,lua").split(",");
const skipped = (kind) =>
    !WANTED.includes(kind) ? `${kind} is not among ZNL_HUB` : kind === "lua" && SKIP_LUA;
export const KINDS = ["npm", "lua"].map((kind) => ({ kind, skip: skipped(kind) }));
export const NO_LUA = skipped("lua");
export const PAIRS = KINDS.flatMap((one) =>
    KINDS.map((other) => ({
        name: `${one.kind} and ${other.kind}`,
        kinds: [one.kind, other.kind],
        skip: one.skip || other.skip,
    })),
);
export const limit = { timeout: 60000 };
/** How long anything may take on a busy machine. */
export const PATIENCE_MS = 20000;
export const MIB = 1024 * 1024;
export const CHAT = "/ws/chat";
export const NEWS = "/ws/news";

const TROUBLE = /panic|Sanitizer|runtime error|task failed|on_event|luajit:/i;
const ALLOWED = { lua: [], npm: [] };

/** Members as a table: the order of a roster is not the same everywhere. */
export const sorted = (members) =>
    (Array.isArray(members) ? members : [])
        .map(({ sessionId, userId, metadata }) =>
            JSON.parse(JSON.stringify({ sessionId, userId, metadata })),
        )
        .sort((a, b) => (a.sessionId < b.sessionId ? -1 : 1));
export const idsOf = (members) => sorted(members).map(({ sessionId }) => sessionId);

/** A WebSocket client of the demo application. */
export class DemoClient {
    constructor(port, ns, { host = "127.0.0.1" } = {}) {
        this.messages = [];
        this.socket = new WebSocket(`ws://${host}:${port}${ns}`, { perMessageDeflate: false });
        this.socket.on("error", (error) => {
            this.error = error;
        });
        this.socket.on("message", (data) => this.messages.push(JSON.parse(data)));
        this.closed = new Promise((resolve) =>
            this.socket.on("close", (code) => {
                this.code = code;
                resolve(code);
            }),
        );
    }

    async open() {
        const opened = new Promise((resolve) => this.socket.once("open", resolve));
        await Promise.race([opened, this.closed]);
        if (this.socket.readyState !== WebSocket.OPEN)
            throw this.error ?? new Error(`closed with ${this.code}`);
        return this;
    }

    send(type, payload) {
        this.socket.send(JSON.stringify({ type, payload }));
    }

    /** Waits for `count` messages of a type; their payloads. */
    async got(type, count = 1, ms = PATIENCE_MS) {
        const what = `${count} messages ${type}`;
        await until(what, () => this.of(type).length >= count || this.code, ms);
        assert.equal(this.code, undefined, `closed while waiting for ${what}`);
        return this.of(type);
    }

    of(type) {
        return this.messages
            .filter((message) => message.type === type)
            .map(({ payload }) => payload);
    }

    async join(userId, sessionId, more = {}) {
        const answers = this.of("joined").length;
        this.send("join", { userId, sessionId, ...more });
        assert.deepEqual((await this.got("joined", answers + 1)).at(-1), { sessionId });
        return this;
    }

    async list() {
        const answers = this.of("roster").length;
        this.send("list");
        return sorted((await this.got("roster", answers + 1)).at(-1));
    }

    async close() {
        this.socket.terminate();
        await this.closed;
    }
}

/** One instance in a process. */
class Instance {
    constructor(peer, as) {
        Object.assign(this, { peer, as, kind: peer.kind, clients: [] });
    }

    call(cmd, fields) {
        return this.peer.call(cmd, { as: this.as, ...fields });
    }

    async start(config) {
        this.host = config.host;
        this.port = (await this.call("start", config)).port;
        return this;
    }

    /** A connected client. */
    client(ns = CHAT) {
        const client = new DemoClient(this.port, ns, { host: this.host });
        this.clients.push(client);
        return client.open();
    }

    /** A client that has joined: `who` is "user session". */
    async joined(who, { ns = CHAT, ...more } = {}) {
        const [userId, sessionId] = who.split(" ");
        return (await this.client(ns)).join(userId, sessionId, more);
    }

    async roster(ns = CHAT) {
        return sorted(await this.call("roster", { ns }));
    }

    /** Waits until the roster has exactly these sessions; it. */
    async sees(ids, { ns = CHAT, ms = PATIENCE_MS } = {}) {
        const wanted = [...ids].sort();
        let seen;
        const same = async () => {
            seen = await this.roster(ns);
            return JSON.stringify(idsOf(seen)) === JSON.stringify(wanted) && seen;
        };
        return until(`${this.as} of ${this.kind} to see ${wanted}`, same, ms).catch((error) => {
            error.message += `, not ${idsOf(seen)}`;
            throw error;
        });
    }

    /** Waits until the roster has so many members. */
    counts(count, { ns = CHAT, ms = PATIENCE_MS } = {}) {
        const reached = async () => (await this.call("count", { ns })) === count;
        return until(`${this.as} of ${this.kind} to have ${count} members`, reached, ms);
    }

    async end() {
        for (const client of this.clients) client.socket.terminate();
        if (!this.peer.exit) await this.call("stop");
    }
}

export class HubPeer extends Peer {
    constructor(kind, options) {
        super(kind, { script: "hub_peer", ...options });
    }

    instance(as = "instance") {
        return new Instance(this, as);
    }

    /** Ends the process and looks at what it left behind. */
    async end() {
        if (!this.exit) await this.kill();
        assert.deepEqual(this.all("unhandled"), [], this.kind);
        const trouble = this.stderr
            .split("\n")
            .filter(
                (line) => TROUBLE.test(line) && !ALLOWED[this.kind].some((ok) => ok.test(line)),
            );
        assert.deepEqual(trouble, [], this.kind);
    }
}

/** One who listens on NATS to all that is published, and publishes by hand. */
export class Tap {
    messages = []; // {subject, text, json, reply, at}

    async open(url, subject = ">") {
        this.bus = await connect({
            servers: url,
            reconnectTimeWait: 100,
            maxReconnectAttempts: -1,
        });
        const callback = (error, message) => {
            if (error) return;
            const said = message.string();
            let json;
            try {
                json = JSON.parse(said);
            } catch {
                // broken on purpose
            }
            this.messages.push({
                subject: message.subject,
                reply: message.reply,
                text: said,
                json,
                at: performance.now(),
            });
        };
        this.bus.subscribe(subject, { callback });
        await this.bus.flush();
        return this;
    }

    async publish(subject, payload, options) {
        const data =
            typeof payload === "object" && !ArrayBuffer.isView(payload)
                ? JSON.stringify(payload)
                : payload;
        this.bus.publish(subject, data, options);
        await this.bus.flush();
    }

    of(subject, match = () => true) {
        return this.messages.filter((message) => message.subject === subject && match(message));
    }

    /** Waits for a message; it. */
    got(subject, match, ms = PATIENCE_MS) {
        return until(`a message on ${subject}`, () => this.of(subject, match)[0], ms);
    }

    forget() {
        this.messages = [];
    }

    close() {
        return this.bus.close();
    }
}

let apps = 0;
/** A name for an application that nobody else has. */
export const freshApp = () => `app${++apps}`;

/** Runs `body(s)`, and ends all it made: s.nats, s.peer(kind), s.instance(kind, config), s.tap(), s.later(fn). */
export async function stage(body, { nats = {}, server } = {}) {
    const peers = [];
    const cleanup = [];
    const s = {
        app: freshApp(),
        peer(kind, options) {
            const peer = new HubPeer(kind, options);
            peers.push(peer);
            return peer;
        },
        /** An instance in a process of its own, started. */
        instance: (kind, { as, env, network, ...config } = {}) =>
            s
                .peer(kind, { env, network })
                .instance(as)
                .start({ app: s.app, bus: s.nats.url, ...config }),
        async tap(subject) {
            const tap = await new Tap().open(s.nats.url, subject);
            cleanup.push(() => tap.close());
            return tap;
        },
        later(fn) {
            cleanup.push(fn);
        },
    };
    let failure;
    try {
        s.nats = server ?? (await startNats(nats));
        await body(s);
    } catch (error) {
        failure = error;
        for (const { kind, stderr } of peers)
            if (stderr) failure.message += `\n--- ${kind} stderr:\n${stderr.slice(-2000)}`;
    }
    const ended = await Promise.allSettled(peers.map((peer) => peer.end()));
    const cleaned = await Promise.allSettled(cleanup.map((fn) => fn()));
    if (s.nats && !server) await s.nats.remove();
    failure ??= [...ended, ...cleaned].find(({ reason }) => reason)?.reason;
    if (failure) throw failure;
}
