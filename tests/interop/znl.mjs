// znl.mjs - ZNL v1 in JavaScript, written from the description of the wire protocol; the
// other side of the interoperability tests. It keeps the habits of the JavaScript library that are
// visible on the wire (one message handled at a time, everything rejected on rebuild, no error replies), and
// knows the two release flavours "0.6.0" and "0.7.4". Its known departures, all local:
//   - stop() without a master is bounded (300 ms), where 0.7.4 waits for ever
//   - the 0.6.0 rebuild loop pauses a few milliseconds between attempts
//   - routing ids that start with a zero byte are dropped
//   - high-water marks are 10000, so that a burst of 1000 requests cannot lose any
//   - the timeout of a request counts from the call
//
// SPDX-License-Identifier: MIT
import { EventEmitter } from "node:events";
import * as crypto from "node:crypto";
import * as zmq from "zeromq";

export const PREFIX = "__znl_v1__";
export const MARKER = "__znl_v1_auth__";
export const ENVELOPE = "__znl_sec_v1__";
const DEFAULT_SALT = "znl-kdf-salt-v1";
const HIGH_WATER = { sendHighWaterMark: 10000, receiveHighWaterMark: 10000 };
const EMPTY = Buffer.alloc(0);

const bytes = (value) => (Buffer.isBuffer(value) ? value : Buffer.from(value));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** An error with a code the tests can compare. */
export class ZnlError extends Error {
    constructor(code, message) {
        super(message ?? code);
        this.code = code;
    }
}

// --- keys, packing, digest -----------------------------------------------------------------

export function deriveKeys(secret, salt) {
    const ikm = bytes(secret);
    if (ikm.length === 0) throw new ZnlError("INVALID", "the key is empty");
    const given = salt == null ? EMPTY : bytes(salt);
    const effective = given.length === 0 ? bytes(DEFAULT_SALT) : given;
    const derive = (info) => Buffer.from(crypto.hkdfSync("sha256", ikm, effective, info, 32));
    return { sign: derive("znl-kdf-sign-v1"), encrypt: derive("znl-kdf-encrypt-v1") };
}

const u32 = (n) => {
    const out = Buffer.alloc(4);
    out.writeUInt32BE(n);
    return out;
};

export function packFrames(frames) {
    const parts = [u32(frames.length)];
    for (const frame of frames) parts.push(u32(frame.length), frame);
    return Buffer.concat(parts);
}

export function unpackFrames(packed) {
    if (packed.length < 4) throw new ZnlError("bad_frame_pack");
    const count = packed.readUInt32BE(0);
    let at = 4;
    if (count > (packed.length - at) / 4) throw new ZnlError("bad_frame_pack");
    const frames = [];
    for (let i = 0; i < count; i++) {
        if (packed.length - at < 4) throw new ZnlError("bad_frame_pack");
        const size = packed.readUInt32BE(at);
        at += 4;
        if (packed.length - at < size) throw new ZnlError("bad_frame_pack");
        frames.push(packed.subarray(at, at + size));
        at += size;
    }
    if (at !== packed.length) throw new ZnlError("bad_frame_pack");
    return frames;
}

export function digestFrames(frames) {
    return crypto.createHash("sha256").update(packFrames(frames)).digest("hex");
}

// --- proofs --------------------------------------------------------------------------------

export const PROOF_HEADER = '{"alg":"HS256","typ":"ZNL-AUTH-PROOF","v":1}';

/** Signs any two JSON texts; tests use it for proofs no honest node makes. */
export function signTexts(signKey, header, payload) {
    const input = `${bytes(header).toString("base64url")}.${bytes(payload).toString("base64url")}`;
    return `${input}.${crypto.createHmac("sha256", signKey).update(input).digest("hex")}`;
}

export function makeProof(signKey, claim) {
    const payload = JSON.stringify({
        kind: claim.kind,
        nodeId: claim.nodeId,
        requestId: claim.requestId ?? "",
        timestamp: claim.timestamp ?? Date.now(),
        nonce: claim.nonce ?? crypto.randomBytes(16).toString("hex"),
        payloadDigest: claim.payloadDigest ?? "",
    });
    return signTexts(signKey, PROOF_HEADER, payload);
}

const BASE64URL = /^[A-Za-z0-9_-]*$/;
const text = (value) => value === undefined || value === null || typeof value === "string";

/** Steps 3 to 8 of the check: returns the claim or throws a ZnlError with the failure class. */
export function decodeProof(signKey, proof, now, maxSkewMs = 30000) {
    const skew = maxSkewMs > 0 ? maxSkewMs : 30000;
    const parts = proof.split(".");
    if (parts.length !== 3) throw new ZnlError("malformed_parts");
    const [header64, payload64, signature] = parts;
    const expected = crypto
        .createHmac("sha256", signKey)
        .update(`${header64}.${payload64}`)
        .digest();
    if (
        !/^[0-9a-f]{64}$/.test(signature) ||
        !crypto.timingSafeEqual(expected, Buffer.from(signature, "hex"))
    )
        throw new ZnlError("bad_signature");
    if (!BASE64URL.test(header64) || !BASE64URL.test(payload64))
        throw new ZnlError("parse_error");
    let header, claim;
    try {
        header = JSON.parse(Buffer.from(header64, "base64url").toString());
        claim = JSON.parse(Buffer.from(payload64, "base64url").toString());
    } catch {
        throw new ZnlError("parse_error");
    }
    if (header?.alg !== "HS256" || header?.typ !== "ZNL-AUTH-PROOF")
        throw new ZnlError("bad_header");
    for (const name of ["kind", "nodeId", "nonce"])
        if (typeof claim?.[name] !== "string" || claim[name] === "")
            throw new ZnlError("missing_field");
    if (!text(claim.requestId) || !text(claim.payloadDigest))
        throw new ZnlError("missing_field");
    const { timestamp } = claim;
    if (
        typeof timestamp !== "number" ||
        !Number.isFinite(timestamp) ||
        timestamp <= 0 ||
        Math.abs(now - timestamp) > skew
    )
        throw new ZnlError("stale_timestamp");
    return {
        kind: claim.kind,
        nodeId: claim.nodeId,
        requestId: claim.requestId ?? "",
        timestamp,
        nonce: claim.nonce,
        payloadDigest: claim.payloadDigest ?? "",
    };
}

/** Keys seen within the window; a key lives from first sight, not refreshed. */
export class ReplayMemory {
    constructor(windowMs = 120000) {
        this.windowMs = Math.max(10000, Number.isFinite(windowMs) ? windowMs : 120000);
        this.seen = new Map();
        this.purgedAt = 0;
    }

    /** True when the key is new; remembers it. */
    admit(key, now) {
        if (key === "") return false;
        if (now - this.purgedAt >= Math.max(1000, this.windowMs / 4)) {
            for (const [old, until] of this.seen) if (until <= now) this.seen.delete(old);
            this.purgedAt = now;
        }
        const until = this.seen.get(key);
        if (until !== undefined && until > now) return false;
        this.seen.delete(key);
        this.seen.set(key, now + this.windowMs);
        return true;
    }
}

// --- envelopes -----------------------------------------------------------------------------

const aad = (kind, senderId, subject) => bytes(`znl-aad-v1|${kind}|${senderId}|${subject}`);

export function seal(encryptKey, kind, senderId, subject, frames, iv = crypto.randomBytes(12)) {
    const cipher = crypto.createCipheriv("aes-256-gcm", encryptKey, iv);
    cipher.setAAD(aad(kind, senderId, subject));
    const ciphertext = Buffer.concat([cipher.update(packFrames(frames)), cipher.final()]);
    return [bytes(ENVELOPE), iv, cipher.getAuthTag(), ciphertext];
}

export function open(encryptKey, kind, senderId, subject, sealed) {
    if (sealed.length !== 4) throw new ZnlError("bad_envelope_frame_count");
    const [version, iv, tag, ciphertext] = sealed;
    if (!version.equals(bytes(ENVELOPE))) throw new ZnlError("bad_envelope_version");
    if (iv.length !== 12) throw new ZnlError("bad_iv_length");
    if (tag.length !== 16) throw new ZnlError("bad_tag_length");
    const decipher = crypto.createDecipheriv("aes-256-gcm", encryptKey, iv);
    decipher.setAAD(aad(kind, senderId, subject));
    decipher.setAuthTag(tag);
    let packed;
    try {
        packed = Buffer.concat([decipher.update(ciphertext), decipher.final()]);
    } catch {
        throw new ZnlError("auth_tag_mismatch");
    }
    return unpackFrames(packed);
}

// --- parsing -------------------------------------------------------------------------------

const KINDS = {
    register: "register",
    unregister: "unregister",
    heartbeat: "heartbeat",
    heartbeat_ack: "heartbeat_ack",
    req: "request",
    res: "response",
    pub: "publish",
    push: "push",
    svc_req: "service_request",
    svc_res: "service_response",
};
const ACTIONS = Object.fromEntries(
    Object.entries(KINDS).map(([action, kind]) => [kind, action]),
);
/** The kind inside a proof and the associated data. */
const signKind = (kind) => kind.replace("service_", "");

/** The actions a release knows: 0.6.0 takes push and svc_* for foreign messages. */
const knows = (flavour, action) =>
    flavour !== "0.6.0" || !["push", "svc_req", "svc_res"].includes(action);

export function parse(frames, flavour = "0.7.4") {
    const message = { kind: "message", payload: frames };
    if (frames.length < 2 || !frames[0].equals(bytes(PREFIX))) return message;
    const action = frames[1].toString("latin1");
    const kind =
        Object.hasOwn(KINDS, action) && knows(flavour, action) ? KINDS[action] : undefined;
    if (kind === undefined) return message;
    const marked = (at) => frames.length >= at + 2 && frames[at].equals(bytes(MARKER));
    // Reads an optional marker and proof at `at`, then the payload.
    const rest = (at, fields) => {
        const proof = marked(at) ? frames[at + 1].toString() : undefined;
        return {
            kind,
            ...fields,
            proof,
            payload: frames.slice(proof === undefined ? at : at + 2),
        };
    };
    switch (action) {
        case "register":
        case "heartbeat":
        case "heartbeat_ack":
            return { ...rest(2, {}), payload: [] };
        case "unregister":
            return { kind, payload: [] };
        case "pub":
        case "push":
            return frames.length >= 3 ? rest(3, { topic: frames[2].toString() }) : message;
        case "req":
        case "res":
            return frames.length >= 3 && frames[2].length > 0
                ? rest(3, { requestId: frames[2].toString() })
                : message;
        default:
            return frames.length >= 4 && frames[2].length > 0 && frames[3].length > 0
                ? rest(4, { requestId: frames[2].toString(), service: frames[3].toString() })
                : message;
    }
}

/** The request id field of a proof. */
export const subjectOf = ({ requestId, topic, service }) =>
    service !== undefined ? `svc:${service}:${requestId}` : (requestId ?? topic ?? "");

const HAS_PAYLOAD = new Set([
    "request",
    "response",
    "publish",
    "push",
    "service_request",
    "service_response",
]);

/** Builds the frames of one message as the DEALER sees them. `keys` undefined: plain. */
export function build(message, { senderId, keys, digest = true, claim = {}, iv } = {}) {
    const { kind, payload = [] } = message;
    const frames = [bytes(PREFIX), bytes(ACTIONS[kind])];
    if (message.requestId !== undefined) frames.push(bytes(message.requestId));
    if (message.topic !== undefined) frames.push(bytes(message.topic));
    if (message.service !== undefined) frames.push(bytes(message.service));
    if (kind === "unregister") return frames;
    if (keys === undefined) return frames.concat(payload);
    const subject = subjectOf(message);
    const sealed = HAS_PAYLOAD.has(kind)
        ? seal(keys.encrypt, signKind(kind), senderId, subject, payload, iv)
        : [];
    const proof = makeProof(keys.sign, {
        kind: signKind(kind),
        nodeId: senderId,
        requestId: subject,
        payloadDigest: digest ? digestFrames(sealed) : "",
        ...claim,
    });
    return [...frames, bytes(MARKER), bytes(proof), ...sealed];
}

/** What an application may return or send, as frames. */
export function toFrames(value, encrypted) {
    if (value === undefined || value === null) return [EMPTY];
    const one = (item) => {
        if (item === undefined || item === null) return EMPTY;
        if (typeof item === "string" || item instanceof Uint8Array) return bytes(item);
        if (encrypted) return bytes(String(item));
        throw new ZnlError("INVALID", "payload must be text or bytes");
    };
    return Array.isArray(value) ? value.map(one) : [one(value)];
}

// --- the send queue ------------------------------------------------------------------------

/** First in, first out; the next starts when libzmq has accepted the previous. */
class SendQueue {
    constructor(socket) {
        this.socket = socket;
        this.items = [];
        this.busy = false;
        this.dropped = false;
    }

    push(frames) {
        if (this.dropped) return Promise.reject(new ZnlError("STOPPED"));
        return new Promise((resolve, reject) => {
            this.items.push({ frames, resolve, reject });
            if (!this.busy) this.#run();
        });
    }

    async #run() {
        this.busy = true;
        while (this.items.length > 0) {
            const item = this.items[0];
            try {
                await this.socket.send(item.frames);
                item.resolve();
            } catch (error) {
                item.reject(error);
            }
            if (this.items[0] === item) this.items.shift();
        }
        this.busy = false;
    }

    drop(error) {
        this.dropped = true;
        for (const item of this.items.splice(0)) item.reject(error);
    }
}

// --- nodes ---------------------------------------------------------------------------------

/** Requests waiting for their answers. */
class Pending {
    constructor(limit) {
        this.limit = limit;
        this.entries = new Map();
    }

    add(key, timeoutMs) {
        if (this.limit > 0 && this.entries.size >= this.limit) throw new ZnlError("LIMIT");
        return new Promise((resolve, reject) => {
            const timer = setTimeout(() => this.fail(key, new ZnlError("TIMEOUT")), timeoutMs);
            this.entries.set(key, { resolve, reject, timer });
        });
    }

    #take(key) {
        const entry = this.entries.get(key);
        if (entry) clearTimeout(entry.timer);
        this.entries.delete(key);
        return entry;
    }

    complete(key, value) {
        const entry = this.#take(key);
        entry?.resolve(value);
        return entry !== undefined;
    }

    fail(key, error) {
        this.#take(key)?.reject(error);
    }

    failAll(error) {
        for (const key of [...this.entries.keys()]) this.fail(key, error);
    }
}

const positive = (value, fallback) => (value > 0 ? Math.floor(value) : fallback);

class Node extends EventEmitter {
    constructor(options) {
        super();
        this.id = String(options.id);
        this.flavour = options.flavour ?? "0.7.4";
        this.endpoint = options.endpoint ?? "tcp://127.0.0.1:6003";
        this.encrypted = options.encrypted ?? false;
        this.digest = options.digest ?? this.flavour === "0.6.0";
        this.salt = this.flavour === "0.6.0" ? undefined : options.kdfSalt;
        this.heartbeatMs = options.heartbeatMs >= 0 ? Math.floor(options.heartbeatMs) : 3000;
        this.heartbeatTimeoutMs = positive(options.heartbeatTimeoutMs, 0);
        this.maxSkewMs = positive(options.maxSkewMs, 30000);
        this.replayWindowMs = positive(options.replayWindowMs, 120000);
        const limit = positive(options.maxPending ?? 1000, 0);
        this.requests = new Pending(limit);
        this.services = new Pending(limit);
        this.running = false;
        this.handler = undefined;
    }

    handle(handler) {
        this.handler = handler;
    }

    /** Steps 1 to 13 for a message; returns the claim or throws the failure class. */
    verify(message, keys, expectedNode) {
        if (keys === undefined) throw new ZnlError("no_key_for_peer");
        if (!message.proof) throw new ZnlError("missing_proof");
        const claim = decodeProof(keys.sign, message.proof, Date.now(), this.maxSkewMs);
        if (claim.kind !== signKind(message.kind)) throw new ZnlError("kind_mismatch");
        if (claim.requestId !== subjectOf(message)) throw new ZnlError("request_id_mismatch");
        if (claim.nodeId === this.id) throw new ZnlError("reflected");
        if (expectedNode !== undefined && claim.nodeId !== expectedNode)
            throw new ZnlError("node_mismatch");
        if (this.digest && claim.payloadDigest !== digestFrames(message.payload))
            throw new ZnlError("digest_mismatch");
        const key = `${claim.kind}|${claim.nodeId}|${claim.requestId}|${claim.nonce}`;
        if (!this.replay.admit(key, Date.now())) throw new ZnlError("replay");
        return claim;
    }

    /** The message as the application sees it: opened, and no frames are one empty frame. */
    opened(message, keys, senderId) {
        if (!HAS_PAYLOAD.has(message.kind)) return message;
        let { payload } = message;
        if (this.encrypted)
            payload = open(
                keys.encrypt,
                signKind(message.kind),
                senderId,
                subjectOf(message),
                payload,
            );
        return { ...message, payload: payload.length === 0 ? [EMPTY] : payload };
    }

    frames(message, keys) {
        return build(message, {
            senderId: this.id,
            keys: this.encrypted ? keys : undefined,
            digest: this.digest,
        });
    }

    refused(error, message, from) {
        if (!(error instanceof ZnlError)) throw error;
        this.emit("auth_failed", { reason: error.code, kind: message.kind, from });
    }

    async answer(message, keys, handler, send) {
        if (handler === undefined) return;
        try {
            const value = await handler(message);
            const payload = toFrames(value, this.encrypted);
            const kind = message.kind === "request" ? "response" : "service_response";
            const { requestId, service } = message;
            send(this.frames({ kind, requestId, service, payload }, keys));
        } catch (error) {
            this.emit("error", error);
        }
    }

    /** One message after the other; a slow handler holds up the rest, as in the library. */
    async read(socket) {
        try {
            for await (const frames of socket) {
                try {
                    this.emit("message", { frames });
                    await this.receive(frames);
                } catch (error) {
                    this.emit("error", error);
                }
            }
        } catch (error) {
            if (!socket.closed) this.emit("error", error);
        }
    }

    failPending(error) {
        this.requests.failAll(error);
        this.services.failAll(error);
    }
}

export class Master extends Node {
    constructor(options) {
        super(options);
        this.sharedKey = options.authKey || undefined;
        this.keyMap = new Map(Object.entries(options.authKeyMap ?? {}));
        this.derived = new Map();
        this.online = new Map();
    }

    get slaves() {
        return [...this.online.keys()];
    }

    keysOf(id) {
        if (!this.encrypted) return undefined;
        const secret = this.keyMap.get(id) || this.sharedKey;
        if (!secret) return undefined;
        if (!this.derived.has(id)) this.derived.set(id, deriveKeys(secret, this.salt));
        return this.derived.get(id);
    }

    addKey(id, secret) {
        this.keyMap.set(id, secret);
        this.derived.delete(id);
    }

    removeKey(id) {
        this.keyMap.delete(id);
        this.derived.delete(id);
        this.#remove(id, "key removed");
    }

    async start() {
        if (this.running) return;
        const socket = new zmq.Router({ ...HIGH_WATER, handover: true, linger: 200 });
        await socket.bind(this.endpoint);
        this.socket = socket;
        this.replay = new ReplayMemory(this.replayWindowMs);
        this.queue = new SendQueue(socket);
        this.running = true;
        this.reading = this.read(socket);
        if (this.heartbeatMs > 0)
            this.sweeper = setInterval(() => this.#sweep(), this.heartbeatMs);
    }

    async stop() {
        if (!this.running) return;
        this.running = false;
        clearInterval(this.sweeper);
        this.failPending(new ZnlError("STOPPED"));
        this.queue.drop(new ZnlError("STOPPED"));
        this.socket.close();
        await Promise.race([this.reading, sleep(200)]);
        for (const id of this.slaves) this.#remove(id, "stopped");
    }

    #sweep() {
        const limit = this.heartbeatTimeoutMs || 3 * this.heartbeatMs;
        const now = Date.now();
        for (const [id, seen] of this.online)
            if (now - seen > limit) this.#remove(id, "silent");
    }

    #remove(id, reason) {
        if (this.online.delete(id)) this.emit("slave_disconnected", id, reason);
    }

    #seen(id, again = false) {
        const known = this.online.has(id);
        this.online.set(id, Date.now());
        if (!known || again) this.emit("slave_connected", id);
    }

    #send(route, frames) {
        return this.queue.push([route, ...frames]);
    }

    async receive([route, ...frames]) {
        if (route.length === 0 || route[0] === 0) return;
        const id = route.toString();
        let message = { ...parse(frames, this.flavour), from: id };
        const { kind } = message;
        if (kind === "unregister") return this.#remove(id, "unregistered");
        if (
            ![
                "register",
                "heartbeat",
                "push",
                "request",
                "response",
                "service_response",
            ].includes(kind)
        )
            return;
        const keys = this.keysOf(id);
        try {
            if (this.encrypted) {
                if (keys === undefined) this.#remove(id, "no key");
                this.verify(message, keys, id);
            } else if (
                message.proof &&
                this.flavour !== "0.6.0" &&
                (kind === "register" || kind === "heartbeat")
            ) {
                throw new ZnlError("unexpected_proof");
            }
            this.#seen(id, kind === "register" && !this.encrypted);
            message = this.opened(message, keys, id);
        } catch (error) {
            return this.refused(error, message, id);
        }
        const reply = (built) => this.#send(route, built).catch(() => {});
        const key = `${id}\0${message.requestId}`;
        switch (kind) {
            case "heartbeat":
                reply(this.frames({ kind: "heartbeat_ack" }, keys));
                break;
            case "push":
                this.emit("push", message);
                break;
            case "request":
                this.emit("request", message);
                await this.answer(message, keys, this.handler, reply);
                break;
            case "response":
                this.requests.complete(key, message.payload);
                this.emit("response", message);
                break;
            case "service_response":
                this.services.complete(key, message.payload);
                this.emit("service_response", message);
                break;
        }
    }

    async #ask(table, id, message, timeoutMs) {
        if (!this.running) throw new ZnlError("STOPPED");
        const keys = this.keysOf(id);
        if (this.encrypted && keys === undefined) throw new ZnlError("no_key_for_peer");
        const built = this.frames(message, keys);
        const key = `${id}\0${message.requestId}`;
        const answer = table.add(key, positive(timeoutMs, 5000));
        this.#send(bytes(id), built).catch((error) => table.fail(key, error));
        return answer;
    }

    request(id, payload, timeoutMs) {
        const message = {
            kind: "request",
            requestId: crypto.randomUUID(),
            payload: toFrames(payload),
        };
        return this.#ask(this.requests, id, message, timeoutMs);
    }

    serviceRequest(id, service, payload, timeoutMs) {
        const message = {
            kind: "service_request",
            requestId: crypto.randomUUID(),
            service,
            payload: toFrames(payload),
        };
        return this.#ask(this.services, id, message, timeoutMs);
    }

    publish(topic, payload) {
        const frames = toFrames(payload);
        let sent = 0;
        for (const id of this.slaves) {
            const keys = this.keysOf(id);
            if (this.encrypted && keys === undefined) {
                this.#remove(id, "no key");
                continue;
            }
            const built = this.frames({ kind: "publish", topic, payload: frames }, keys);
            this.#send(bytes(id), built).catch(() => this.#remove(id, "send failed"));
            sent++;
        }
        return sent;
    }
}

export class Slave extends Node {
    constructor(options) {
        super(options);
        this.keys = this.encrypted ? deriveKeys(options.authKey ?? "", this.salt) : undefined;
        this.subscriptions = new Map();
        this.served = new Map();
        this.masterOnline = false;
        this.pinned = undefined;
    }

    async start() {
        if (this.running) return;
        this.running = true;
        this.replay = new ReplayMemory(this.replayWindowMs);
        this.#connect();
    }

    #connect() {
        const socket = new zmq.Dealer({
            ...HIGH_WATER,
            routingId: this.id,
            immediate: true,
            linger: 0,
            sendTimeout: this.flavour === "0.6.0" ? 0 : -1,
            reconnectInterval: 200,
            reconnectMaxInterval: 1000,
        });
        socket.connect(this.endpoint);
        this.socket = socket;
        this.queue = new SendQueue(socket);
        this.waiting = false;
        this.reading = this.read(socket);
        this.queue.push(this.frames({ kind: "register" }, this.keys)).catch(() => {});
        // 0.6.0 cannot send before the connection is complete; leave it a moment to form.
        if (this.heartbeatMs > 0)
            this.beat = setTimeout(() => this.#heartbeat(), this.flavour === "0.6.0" ? 5 : 0);
    }

    #heartbeat() {
        const { queue } = this;
        this.waiting = true;
        const limit = this.heartbeatTimeoutMs || Math.max(2 * this.heartbeatMs, 1000);
        this.ackTimer = setTimeout(() => this.#rebuild(queue), limit);
        queue
            .push(this.frames({ kind: "heartbeat" }, this.keys))
            .catch(() => this.#rebuild(queue));
    }

    #disconnect(error) {
        clearTimeout(this.beat);
        clearTimeout(this.ackTimer);
        this.waiting = false;
        this.#setOnline(false);
        this.failPending(error);
        this.queue.drop(error);
        this.socket.close();
    }

    #rebuild(queue) {
        if (!this.running || queue !== this.queue) return;
        this.#disconnect(new ZnlError("REBUILT"));
        this.emit("rebuild");
        this.#connect();
    }

    #setOnline(online) {
        if (this.masterOnline === online) return;
        this.masterOnline = online;
        this.emit(online ? "master_online" : "master_offline");
    }

    #alive() {
        this.#setOnline(true);
        if (!this.waiting) return;
        this.waiting = false;
        clearTimeout(this.ackTimer);
        this.beat = setTimeout(() => this.#heartbeat(), this.heartbeatMs);
    }

    async stop() {
        if (!this.running) return;
        clearTimeout(this.beat);
        clearTimeout(this.ackTimer);
        const told = this.queue.push(this.frames({ kind: "unregister" })).then(
            () => {
                this.socket.linger = 200;
            },
            () => {},
        );
        await Promise.race([told, sleep(300)]);
        this.running = false;
        this.#disconnect(new ZnlError("STOPPED"));
        await Promise.race([this.reading, sleep(200)]);
        this.pinned = undefined;
    }

    async receive(frames) {
        let message = { ...parse(frames, this.flavour), from: this.pinned ?? "" };
        const { kind } = message;
        if (
            !["heartbeat_ack", "publish", "request", "response", "service_request"].includes(
                kind,
            )
        )
            return;
        try {
            if (this.encrypted) {
                const claim = this.verify(message, this.keys, this.pinned);
                this.pinned = claim.nodeId;
                message.from = claim.nodeId;
            }
            message = this.opened(message, this.keys, this.pinned);
        } catch (error) {
            return this.refused(error, message, this.pinned ?? "");
        }
        this.#alive();
        const { queue } = this;
        const reply = (built) => queue.push(built).catch(() => {});
        switch (kind) {
            case "publish":
                this.emit("publish", message);
                await this.subscriptions.get(message.topic)?.(message);
                break;
            case "request":
                this.emit("request", message);
                await this.answer(message, this.keys, this.handler, reply);
                break;
            case "response":
                this.requests.complete(message.requestId, message.payload);
                this.emit("response", message);
                break;
            case "service_request":
                this.emit("service_request", message);
                await this.answer(message, this.keys, (given) => this.#serve(given), reply);
                break;
        }
    }

    async #serve(message) {
        const { service } = message;
        const failed = (error) => JSON.stringify({ service, ok: false, error });
        const handler = this.served.get(service);
        if (handler === undefined) return failed(`service not found: ${service}`);
        try {
            return await handler(message);
        } catch (error) {
            return failed(error.message);
        }
    }

    async request(payload, timeoutMs) {
        if (!this.running) throw new ZnlError("STOPPED");
        const message = {
            kind: "request",
            requestId: crypto.randomUUID(),
            payload: toFrames(payload),
        };
        const built = this.frames(message, this.keys);
        const answer = this.requests.add(message.requestId, positive(timeoutMs, 5000));
        this.queue.push(built).catch((error) => this.requests.fail(message.requestId, error));
        return answer;
    }

    push(topic, payload) {
        if (!this.running) throw new ZnlError("STOPPED");
        const message = { kind: "push", topic, payload: toFrames(payload) };
        this.queue.push(this.frames(message, this.keys)).catch(() => {});
    }

    subscribe(topic, handler) {
        this.subscriptions.set(topic, handler);
    }

    unsubscribe(topic) {
        this.subscriptions.delete(topic);
    }

    service(name, handler) {
        this.served.set(name.trim(), handler);
    }
}

export const createNode = (options) =>
    options.role === "master" ? new Master(options) : new Slave(options);
