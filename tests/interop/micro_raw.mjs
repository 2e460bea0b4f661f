// micro_raw.mjs - a WebSocket client that may break every rule: bytes on a TCP socket.
//
// SPDX-License-Identifier: MIT
import { randomBytes } from "node:crypto";
import { connect } from "node:net";
import { until } from "./scene.mjs";

export const OPCODE = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 };

/** The bytes of one frame. `size` lies about the length, `wide` writes it in 2 or 8 bytes. */
export function frame(payload, how = {}) {
    const { opcode = OPCODE.text, fin = true, rsv = 0, masked = true, size, wide } = how;
    const data = Buffer.from(payload);
    const length = size ?? data.length;
    const form = wide ?? (length > 0xffff ? 8 : length > 125 ? 2 : 0);
    const head = Buffer.alloc(2 + form + (masked ? 4 : 0));
    head[0] = (fin ? 0x80 : 0) | (rsv << 4) | opcode;
    head[1] = (masked ? 0x80 : 0) | (form === 8 ? 127 : form === 2 ? 126 : length);
    if (form === 2) head.writeUInt16BE(length, 2);
    if (form === 8) head.writeBigUInt64BE(BigInt(length), 2);
    if (!masked) return Buffer.concat([head, data]);
    const mask = randomBytes(4);
    mask.copy(head, 2 + form);
    return Buffer.concat([head, data.map((byte, i) => byte ^ mask[i & 3])]);
}

export class Raw {
    closed = false;
    bytes = Buffer.alloc(0);
    frames = []; // {opcode, fin, payload}

    constructor(port) {
        this.socket = connect(port, "127.0.0.1");
        this.socket.setNoDelay(true);
        this.socket.on("error", () => {});
        this.socket.on("close", () => {
            this.closed = true;
        });
        this.socket.on("data", (data) => {
            this.bytes = Buffer.concat([this.bytes, data]);
            if (this.head !== undefined) this.#take();
        });
    }

    write(data) {
        if (!this.closed) this.socket.write(data);
        return this;
    }

    static request(path, lines = {}) {
        const headers = {
            Host: "127.0.0.1",
            Upgrade: "websocket",
            Connection: "Upgrade",
            "Sec-WebSocket-Version": "13",
            "Sec-WebSocket-Key": randomBytes(16).toString("base64"),
            ...lines,
        };
        const text = Object.entries(headers)
            .filter(([, value]) => value !== undefined)
            .map(([name, value]) => `${name}: ${value}\r\n`)
            .join("");
        return `GET ${path} HTTP/1.1\r\n${text}\r\n`;
    }

    /** Reads the answer to a request: its status; what follows are frames. */
    async answer(ms) {
        const end = await until(
            "an HTTP answer",
            () => {
                const at = this.bytes.indexOf("\r\n\r\n");
                return at >= 0 ? at : this.closed && -1;
            },
            ms,
        );
        if (end < 0) return undefined;
        this.head = this.bytes.subarray(0, end).toString();
        this.bytes = this.bytes.subarray(end + 4);
        this.#take();
        return Number(this.head.split(" ")[1]);
    }

    async open(path, lines) {
        this.write(Raw.request(path, lines));
        const status = await this.answer();
        if (status !== 101) throw new Error(`status ${status}`);
        return this;
    }

    #take() {
        for (;;) {
            const { bytes } = this;
            if (bytes.length < 2) return;
            let length = bytes[1] & 127;
            let at = 2;
            if (length === 126) {
                if (bytes.length < 4) return;
                length = bytes.readUInt16BE(2);
                at = 4;
            } else if (length === 127) {
                if (bytes.length < 10) return;
                length = Number(bytes.readBigUInt64BE(2));
                at = 10;
            }
            if (bytes.length < at + length) return;
            this.frames.push({
                opcode: bytes[0] & 15,
                fin: (bytes[0] & 0x80) !== 0,
                payload: bytes.subarray(at, at + length),
            });
            this.bytes = bytes.subarray(at + length);
        }
    }

    text(value, how) {
        return this.write(frame(typeof value === "string" ? value : JSON.stringify(value), how));
    }

    ask(id, url, data) {
        return this.text({ id, twoway: true, data: { url, data }, mode: 0 });
    }

    /** The response to request `id`. */
    async response(id, ms) {
        const found = () =>
            this.frames
                .filter(({ opcode }) => opcode === OPCODE.text)
                .map(({ payload }) => JSON.parse(payload))
                .find((json) => json.mode === 1 && json.id === id);
        return (await until(`a response to ${id}`, found, ms)).data;
    }

    /** The close code: 1005 for a frame without one, 1006 for none at all. */
    async end(ms = 4000) {
        await until("the connection to end", () => this.closed || this.#closeFrame(), ms);
        const close = this.#closeFrame();
        if (!close) return 1006;
        return close.payload.length >= 2 ? close.payload.readUInt16BE(0) : 1005;
    }

    #closeFrame() {
        return this.frames.find(({ opcode }) => opcode === OPCODE.close);
    }

    destroy() {
        this.socket.destroy();
    }
}
