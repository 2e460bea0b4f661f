// cluster_raw.mjs - packets of cluster-client over a socket that may break every rule, written from
// the specification: a follower that connects, and a leader that listens.
//
// SPDX-License-Identifier: MIT
import { once } from "node:events";
import { connect, createServer } from "node:net";
import { decode, encode } from "./cluster_transcode.mjs";
import { until } from "./scene.mjs";

const HEAD = 24;

/** The bytes of a packet. `connText` stands for `connObj`; the lengths may lie. */
export function packet({ version = 1, type = 0, reserved = 0, id = 1, timeout = 3000, ...more }) {
    const conn = Buffer.from(more.connText ?? JSON.stringify(more.connObj));
    const data = Buffer.from(more.data ?? []);
    const head = Buffer.alloc(HEAD);
    head[0] = version;
    head[1] = type;
    head.writeUInt16BE(reserved, 2);
    head.writeBigInt64BE(BigInt(id), 4);
    head.writeInt32BE(timeout, 12);
    head.writeInt32BE(more.connLength ?? conn.length, 16);
    head.writeInt32BE(more.appLength ?? data.length, 20);
    return Buffer.concat([head, conn, data]);
}

/** The packet at the start of `bytes`, or nothing when it is not all there. */
export function parse(bytes) {
    if (bytes.length < HEAD) return undefined;
    const connLength = bytes.readInt32BE(16);
    const size = HEAD + connLength + bytes.readInt32BE(20);
    if (bytes.length < size) return undefined;
    const connText = bytes.toString("utf8", HEAD, HEAD + connLength);
    return {
        size,
        version: bytes[0],
        kind: bytes[1] === 1 ? "response" : "request",
        reserved: bytes.readUInt16BE(2),
        id: Number(bytes.readBigInt64BE(4)),
        idHex: bytes.toString("hex", 4, 12),
        timeout: bytes.readInt32BE(12),
        connText,
        connObj: JSON.parse(connText),
        data: bytes.subarray(HEAD + connLength, size),
    };
}

/** The data of an invoke. */
export function argumentsData(args) {
    const parts = args.flatMap((arg) => {
        const text = encode(arg);
        const length = Buffer.alloc(4);
        length.writeInt32BE(text.length);
        return [length, text];
    });
    return Buffer.concat(parts);
}

/** The arguments in the data of an invoke. */
export function argumentsOf({ connObj, data }) {
    const args = [];
    let at = 0;
    for (let i = 0; i < (connObj.argLength ?? 0); i++) {
        const end = at + 4 + data.readInt32BE(at);
        args.push(decode(data.subarray(at + 4, end)));
        at = end;
    }
    return args;
}

/** One end of a connection. */
class Line {
    closed = false; // the socket is gone
    ended = false; // the other end has said FIN
    packets = [];
    #rest = Buffer.alloc(0);

    constructor(socket, onPacket = () => {}) {
        this.socket = socket;
        socket.setNoDelay(true);
        socket.on("error", () => {});
        socket.on("end", () => {
            this.ended = true;
        });
        socket.on("close", () => {
            this.closed = true;
        });
        socket.on("data", (data) => {
            this.#rest = this.#rest.length > 0 ? Buffer.concat([this.#rest, data]) : data;
            for (let next = parse(this.#rest); next; next = parse(this.#rest)) {
                this.#rest = this.#rest.subarray(next.size);
                this.packets.push(next);
                onPacket(next, this);
            }
        });
    }

    write(bytes) {
        if (!this.closed) this.socket.write(bytes);
        return this;
    }

    send(fields) {
        return this.write(packet(fields));
    }

    /** Answers a packet. */
    answer({ id, timeout }, connObj, data) {
        return this.send({ type: 1, id, timeout, connObj, data });
    }

    /** The first packet that fits and was not taken yet. */
    take(what, match, ms) {
        const found = () => {
            const index = this.packets.findIndex(match);
            if (index >= 0) return this.packets.splice(index, 1)[0];
            if (this.closed) throw new Error(`the connection closed before ${what}`);
            return undefined;
        };
        return until(what, found, ms).catch((error) => {
            const heard = this.packets.map(({ id, connText }) => `${id} ${connText}`);
            error.message += `; heard ${heard.slice(-8).join(", ")}`;
            throw error;
        });
    }

    /** The next request of a type. */
    request(type, ms) {
        return this.take(type, (p) => p.kind === "request" && p.connObj.type === type, ms);
    }

    /** The response to request `id`. */
    response(id, ms) {
        return this.take(`an answer to ${id}`, (p) => p.kind === "response" && p.id === id, ms);
    }

    /** Waits until the other end has closed. */
    end(ms) {
        return until("the connection to close", () => this.closed || this.ended, ms);
    }

    destroy() {
        this.socket.destroy();
    }
}

export class RawFollower extends Line {
    #lastId = 100;

    constructor(to) {
        super(connect(typeof to === "string" ? { path: to } : { port: to, host: "127.0.0.1" }));
    }

    async register(channelName = "DemoClient", more = {}) {
        const id = this.#lastId++;
        this.send({ id, connObj: { type: "register_channel", channelName, ...more } });
        const { connObj, data } = await this.response(id);
        this.registered = { connObj, ...decode(data) };
        return this;
    }

    /** Sends an invoke and returns its id. */
    ask(method, args = [], { timeout, oneway = false } = {}) {
        const id = this.#lastId++;
        const connObj = { type: "invoke", method, argLength: args.length, oneway };
        this.send({ id, timeout, connObj, data: argumentsData(args) });
        return id;
    }

    /** Calls a method: {success, value}. */
    async invoke(method, args, { ms, ...how } = {}) {
        const { connObj, data } = await this.response(this.ask(method, args, how), ms);
        return { success: connObj.success, value: decode(data) };
    }

    subscribe(reg, key = `$$inner$$__${JSON.stringify(reg)}`) {
        return this.send({ id: this.#lastId++, connObj: { type: "subscribe", key, reg } });
    }

    /** The next value of a subscription, acknowledged. */
    async value(ms) {
        const pushed = await this.request("subscribe_result", ms);
        this.answer({ id: pushed.id, timeout: 0 }, { type: "subscribe_result_res" });
        return { key: pushed.connObj.key, value: decode(pushed.data) };
    }

    /** Whether the leader still answers on this connection. */
    async beats() {
        const id = this.#lastId++;
        this.send({ id, connObj: { type: "heartbeat" } });
        const { connObj } = await this.response(id);
        return connObj.type === "heartbeat_res";
    }
}

/** A leader; connections that close without a byte are the probes of followers and not kept. */
export class RawLeader {
    lines = []; // those that said something
    sockets = new Set();

    constructor() {
        this.server = createServer({ allowHalfOpen: true }, (socket) => {
            this.sockets.add(socket);
            const line = new Line(socket, (packet) => {
                if (!this.lines.includes(line)) this.lines.push(line);
                if (line.accepted && packet.connObj.type === "register_channel")
                    RawLeader.acceptAll(line);
            });
            socket.on("end", () => socket.end());
        });
    }

    async listen(port) {
        this.server.listen(port, "127.0.0.1");
        await once(this.server, "listening");
        return this;
    }

    /** The connection number `index`, once it has sent its registration: {line, request}. */
    async registration(index = 0, ms = 12000) {
        const line = await until(`connection ${index} to register`, () => this.lines[index], ms);
        return { line, request: await line.request("register_channel", ms) };
    }

    /** Accepts it, and repetitions of it, which may be under way. */
    async accept(index, ms) {
        const { line, request } = await this.registration(index, ms);
        RawLeader.#answer(line, request);
        RawLeader.acceptAll(line);
        return line;
    }

    static #answer(line, request) {
        line.answer(request, { type: "register_channel_res" }, encode({ success: true }));
    }

    /** Accepts what has come on a connection and what comes. */
    static acceptAll(line) {
        line.accepted = true;
        const asked = line.packets.filter(({ connObj }) => connObj.type === "register_channel");
        line.packets = line.packets.filter((one) => !asked.includes(one));
        for (const request of asked) RawLeader.#answer(line, request);
    }

    close() {
        for (const socket of this.sockets) socket.destroy();
        this.server.close();
    }
}
