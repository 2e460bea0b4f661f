// micro.mjs - the micro protocol in JavaScript over `ws`, written from the description of the
// wire protocol: connections, messages and the Server; the other side of the micro tests. The
// Registry is in micro_registry.mjs, the Application in micro_application.mjs. Knows the release
// flavours "1.0.5" and "2.0.15" and keeps their visible habits, the bad ones included. Its
// departures, all local: it listens on the loopback interface, sockets left over when a server
// stops are cut at once, limits and intervals can be set.
//
// SPDX-License-Identifier: MIT
import { EventEmitter, once } from "node:events";
import { createServer } from "node:http";
import { Readable } from "node:stream";
import { WebSocket, WebSocketServer } from "ws";
import { Routes } from "./micro_routes.mjs";

export const MODE = { request: 0, response: 1, abort: 2 };
export const HEARTBEAT = "/-/heartbeat";
const REQUEST_MS = 30000;

/** An error with a status that crosses the wire. */
export class Exception extends Error {
    constructor(status, message) {
        super(message);
        this.name = "Exception";
        this.status = status;
    }
}

const named = (name, status, message) => Object.assign(new Exception(status, message), { name });
export const aborted = () => named("AbortException", "ECONNABORTED", "Abort");
const timedOut = () => named("TimeoutException", "ETIMEDOUT", "Timeout");
/** The status of this one stays at home: it is no Exception. */
const noRoute = (url) => Object.assign(new Error(url), { status: "NOT_FOUND" });

const isAsyncIterable = (value) => typeof value?.[Symbol.asyncIterator] === "function";

/** One number from the environment, as 2.0.15 reads it: not a number or 0 means the default. */
const environment = (name, standard) => Number(process.env[name]) || standard;

/** What a path says about who connects (spec, 3.1), or undefined. */
export function parsePath(target) {
    const path = target.split("?", 1)[0].replace(/^\//, "").replace(/\/$/, "");
    const [host, portText, ...extras] = path.split("/");
    if (extras.length === 0 || !host || !portText) return undefined;
    const port = Number(portText);
    if (!Number.isInteger(port) || port < 1 || port > 65535) return undefined;
    return { host, port, extras };
}

/** One connection, seen from one end. Events: "close". */
export class Client extends EventEmitter {
    pending = new Map(); // id -> {resolve, reject, timer}
    streams = new Map(); // id -> Readable
    serving = new Map(); // id -> {aborted}
    online = true;
    disposed = false;
    #next = 0;
    #timers = [];

    constructor(server, socket, { host, port, extras }) {
        super();
        Object.assign(this, { server, socket, host, port, extras });
        this.key = `${host}:${port}`;
        this.v1 = server.v1;
        this.heardAt = Date.now();
        socket.on("message", (data) => this.#receive(data));
        socket.on("error", () => {});
        socket.on("close", (code) => {
            this.online = false;
            this.emit("close", code);
        });
        if (!this.v1) this.#watchHeartbeats();
    }

    #watchHeartbeats() {
        const beat = this.server.heartbeat;
        const every = (ms, body) => this.#timers.push(setInterval(body, ms));
        every(beat.intervalMs, () => {
            if (this.online && this.socket.readyState === WebSocket.OPEN)
                this.push(HEARTBEAT, {});
        });
        every(beat.checkMs, () => {
            if (Date.now() - this.heardAt > beat.timeoutMs) this.dispose();
        });
    }

    // --- sending ---------------------------------------------------------------------------

    #send(frame) {
        if (!this.online) throw new Error("Client is not online");
        if (this.socket.readyState !== WebSocket.OPEN)
            throw new Error(
                `WebSocket is not open. Current readyState: ${this.socket.readyState}`,
            );
        this.socket.send(JSON.stringify(frame));
    }

    #ask(url, data, twoway, stream) {
        const id = this.#next;
        this.#next = id >= Number.MAX_SAFE_INTEGER - 1 ? 0 : id + 1;
        const frame = { id, twoway, data: { url, data }, mode: MODE.request };
        this.#send(this.v1 ? frame : { ...frame, stream });
        return id;
    }

    #abandon(about) {
        const frame = { id: this.#next++, twoway: false, data: about, mode: MODE.abort };
        try {
            this.#send(this.v1 ? frame : { ...frame, stream: false });
        } catch {
            // nobody is left to hear it
        }
    }

    /** Resolves with the data of the answer; `signal` abandons the request. */
    request(url, data, { timeout = REQUEST_MS, signal } = {}) {
        return new Promise((resolve, reject) => {
            const id = this.#ask(url, data, true, false);
            const settle = (error) => {
                clearTimeout(entry.timer);
                this.pending.delete(id);
                reject(error);
            };
            const entry = { resolve, reject: settle };
            entry.timer = setTimeout(() => {
                if (this.v1) this.#abandon(id);
                settle(this.v1 ? aborted() : timedOut());
            }, timeout);
            this.pending.set(id, entry);
            signal?.addEventListener("abort", () => {
                if (this.pending.get(id) !== entry) return;
                this.#abandon(id);
                settle(aborted());
            });
        });
    }

    push(url, data) {
        this.#ask(url, data, false, false);
    }

    /** A Readable of the chunks. Destroying it sends nothing; the signal sends an abort. */
    stream(url, data, { signal } = {}) {
        const id = this.#ask(url, data, true, true);
        const out = new Readable({ objectMode: true, read() {} });
        out.on("close", () => this.streams.delete(id));
        this.streams.set(id, out);
        signal?.addEventListener("abort", () => {
            if (!this.streams.has(id)) return;
            this.#abandon(id);
            out.destroy(aborted());
        });
        return out;
    }

    // --- receiving -------------------------------------------------------------------------

    #receive(text) {
        let frame;
        try {
            frame = JSON.parse(text);
        } catch {
            return;
        }
        if (frame?.mode === MODE.request) this.#serve(frame);
        else if (frame?.mode === MODE.response) this.#answered(frame);
        else if (frame?.mode === MODE.abort) {
            const job = this.serving.get(frame.data);
            if (job) job.aborted = true;
            this.serving.delete(frame.data);
        }
    }

    #answered({ id, stream, data }) {
        if (stream) {
            const out = this.streams.get(id);
            if (!out) return;
            // Later, so that chunks that came with the error reach the reader before it.
            const fail = (...why) => setImmediate(() => out.destroy(new Exception(...why)));
            if (!data) fail(404, "Empty chunk data");
            else if (data.status !== 200) fail(data.status, data.payload);
            else out.push(data.final ? null : data.payload);
            return;
        }
        const entry = this.pending.get(id);
        if (!entry) return;
        if (data?.status !== 200) {
            entry.reject(new Exception(data?.status, data?.message));
            return;
        }
        clearTimeout(entry.timer);
        this.pending.delete(id);
        entry.resolve(data.data);
    }

    async #serve(frame) {
        const { id, twoway } = frame;
        if (!this.v1 && frame.data?.url === HEARTBEAT) {
            this.heardAt = Date.now();
            return;
        }
        const job = { aborted: false };
        this.serving.set(id, job);
        const answer = (data) => {
            if (job.aborted || !twoway) return;
            try {
                this.#send({ id, mode: MODE.response, twoway: false, data });
            } catch {
                // the asker has gone
            }
        };
        const streams = frame.stream && !this.v1;
        let value;
        try {
            if (!this.online) throw new Error("Client is not online");
            const given = { client: this, serving: job };
            value = await this.server.dispatch(frame.data.url, frame.data.data, given);
            if (streams) await this.#produce(id, job, value);
            else if (!this.v1 && isAsyncIterable(value))
                throw new Error("Async iterable is not supported");
            else if (this.v1 && value?.e) throw value.e; // the bug of 1.0.5
            else answer({ status: 200, data: value });
        } catch (error) {
            const known = error instanceof Exception;
            const status = known ? error.status : 500;
            if (!streams) answer({ status, data: null, message: error.message });
            else if (!job.aborted)
                this.#chunk(id, {
                    status,
                    seq: 0,
                    payload:
                        known || error.message === "Invalid async iterable"
                            ? error.message
                            : "Unknown error",
                    final: true,
                });
        }
        this.serving.delete(id);
        if (this.v1) this.pending.delete(id); // the bug of 1.0.5: one table for both directions
    }

    #chunk(id, data) {
        try {
            this.#send({ id, mode: MODE.response, stream: true, data, twoway: false });
        } catch {
            return false;
        }
        return true;
    }

    async #produce(id, job, value) {
        if (!isAsyncIterable(value)) throw new Error("Invalid async iterable");
        let seq = 0;
        for await (const payload of value) {
            if (job.aborted) return;
            if (!this.#chunk(id, { status: 200, seq, payload, final: false })) return;
            seq++;
        }
        if (!job.aborted) this.#chunk(id, { status: 200, seq, final: true });
    }

    // --- the end ---------------------------------------------------------------------------

    dispose() {
        if (this.disposed) return;
        this.disposed = true;
        this.online = false;
        for (const timer of this.#timers) clearInterval(timer);
        if (!this.v1) {
            for (const { reject } of [...this.pending.values()]) reject(aborted());
            for (const out of [...this.streams.values()]) out.destroy(aborted());
            for (const job of this.serving.values()) job.aborted = true;
        }
        this.socket.close();
    }
}

/** Listens, keeps one Client per remote address, routes. Events: "connect", "disconnect". */
export class Server extends EventEmitter {
    clients = new Map();
    port = undefined;
    #routes = new Routes();
    #http;
    #upgrades;

    /** `heartbeat`: {intervalMs, timeoutMs, checkMs}; otherwise from the environment. */
    constructor({ flavour = "2.0.15", namespace, advertiseHost, heartbeat } = {}) {
        super();
        this.v1 = flavour.startsWith("1.");
        this.namespace = namespace;
        this.host = advertiseHost?.trim() || "127.0.0.1";
        this.heartbeat = {
            intervalMs: environment("MICRO_HEARTBEAT_INTERVAL", 10000),
            timeoutMs: environment("MICRO_HEARTBEAT_TIMEOUT", 20000),
            checkMs: environment("MICRO_HEARTBEAT_CHECK_INTERVAL", this.v1 ? 1000 : 5000),
            ...heartbeat,
        };
    }

    register(path, handler) {
        return this.#routes.add(path, handler);
    }

    /** Runs a route inside the process; the members of `extras` are added to its argument. */
    async dispatch(url, data, extras) {
        const found = this.#routes.find(url);
        if (!found) throw noRoute(url);
        return found.handler({ params: found.params, data, url, ...extras });
    }

    async listen(port) {
        this.#http = createServer((_, response) => response.writeHead(426).end());
        this.#upgrades = new WebSocketServer({
            server: this.#http,
            perMessageDeflate: false,
        });
        this.#upgrades.on("error", () => {}); // told by listening below
        this.#upgrades.on("connection", (socket, request) => {
            const from = parsePath(request.url);
            socket.on("error", () => {});
            if (from) this.#add(new Client(this, socket, from));
            else socket.close();
        });
        this.#http.listen(port, "127.0.0.1");
        await once(this.#http, "listening");
        this.port = this.#http.address().port;
    }

    #add(client) {
        const old = this.clients.get(client.key);
        if (old) {
            this.clients.delete(old.key);
            old.dispose();
            if (!this.v1) this.emit("disconnect", old);
        }
        this.clients.set(client.key, client);
        client.once("close", () => {
            const held = this.clients.get(client.key) === client;
            if (held) this.clients.delete(client.key);
            if (!held && !this.v1) return;
            client.dispose();
            this.emit("disconnect", client);
        });
        this.emit("connect", client);
    }

    async connect(host, port, timeout = 5000) {
        const known = this.clients.get(`${host}:${port}`);
        if (known) return known;
        if (!this.port) throw new Error("local port is not set");
        const path = encodeURI(`${this.host}/${this.port}/${this.namespace}`);
        const socket = new WebSocket(`ws://${host}:${port}/${path}`);
        return new Promise((resolve, reject) => {
            const timer = setTimeout(() => {
                reject(new Error("Connection timeout"));
                socket.terminate();
            }, timeout);
            const ended = (error) => {
                clearTimeout(timer);
                reject(error ?? new Error("Connection closed"));
            };
            socket.once("error", ended);
            socket.once("close", () => ended());
            // At once, not a turn later: requests may come with the answer to the upgrade.
            socket.once("open", () => {
                clearTimeout(timer);
                const client = new Client(this, socket, { host, port, extras: [] });
                this.#add(client);
                resolve(client);
            });
        });
    }

    async stop() {
        for (const client of this.clients.values()) {
            client.dispose();
            if (!this.v1) this.emit("disconnect", client);
        }
        this.clients.clear();
        const server = this.#http;
        if (server) {
            const closed = new Promise((resolve) => server.close(resolve));
            const cut = setTimeout(() => {
                for (const socket of this.#upgrades.clients) socket.terminate();
            }, 300);
            this.#upgrades.close();
            await closed;
            clearTimeout(cut);
        }
        this.#http = undefined;
        this.port = undefined;
    }
}
