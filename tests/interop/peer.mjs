// peer.mjs - one ZNL node driven by JSON lines; the commands stand below.
//
// With ZNL_REAL=/path/to/library/index.js in the environment the node is the JavaScript library
// itself, reached through its public API only; without it, znl.mjs.
//
// In:   {"n": 1, "cmd": "request", ...}        Out:  {"re": 1, "ok": true, "value": ...}
//                                       {"re": 1, "ok": false, "code": "...", "error": "..."}
//                                       {"ev": "push", ...}            (any time)
// Payloads are lists of frames in hex; an answer or event never has an empty list, because zero
// frames and one empty frame are the same to an application.
//
//   start            role id endpoint encrypted auth_key auth_keys kdf_salt digest heartbeat_ms
//                    heartbeat_timeout_ms max_pending max_skew_ms flavour handler -> flavour
//   stop, restart    the same node
//   request          [to] frames timeout_ms               -> frames
//   request_many     [to] count text timeout_ms           -> {ok, ms, failed: {code: count}}
//   publish, push    topic frames                         -> null
//   publish_many, push_many  topic count                  -> null; payloads are "0", "1", ...
//   subscribe, unsubscribe  topic                         events "subscribed"
//   service          name mode (echo or throw)
//   service_request  to service frames timeout_ms         -> frames
//   slaves -> ids; online -> boolean; counters -> table; add_key slave key;
//   remove_key slave; exit
//   watch            events "raw" from now on: every message as it came, without routing id
//
// The handler of requests ("script", or "none" for no handler) reads its first frame as text:
//   "sleep:MS" waits, then echoes; "throw" fails; "nil" returns nothing; "back:TEXT" asks the
//   peer that called for TEXT and returns its answer; anything else is echoed.
//
// Events: raw frames; slave_connected id; slave_disconnected id; master_online; master_offline; auth_failed
//   reason kind from; push from topic frames; publish topic frames; subscribed topic frames;
//   request frames; response frames; error message.
//
// SPDX-License-Identifier: MIT
import { createInterface } from "node:readline";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { pathToFileURL } from "node:url";

const realPath = process.env.ZNL_REAL;
const write = (object) => process.stdout.write(`${JSON.stringify(object)}\n`);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const toHex = (frames) => {
    const list = Array.isArray(frames) ? frames : [frames];
    return list.length === 0 ? [""] : list.map((frame) => Buffer.from(frame).toString("hex"));
};
const fromHex = (frames) => frames.map((frame) => Buffer.from(frame, "hex"));
const single = (frames) => (frames.length === 1 ? frames[0] : frames);

// --- adapters: znl.mjs and the library behind one face --------------------------------------

async function openOwn(options) {
    const { createNode } = await import("./znl.mjs");
    return createNode(options);
}

/** The library by its documented API. */
async function openReal(options) {
    const { ZNL } = await import(pathToFileURL(realPath).href);
    const { version } = JSON.parse(readFileSync(join(dirname(realPath), "package.json")));
    const node = new ZNL({
        role: options.role,
        id: options.id,
        endpoints: { router: options.endpoint },
        maxPending: options.maxPending,
        authKey: options.authKey ?? "",
        authKeyMap: options.authKeyMap,
        kdfSalt: options.kdfSalt,
        heartbeatInterval: options.heartbeatMs,
        heartbeatTimeoutMs: options.heartbeatTimeoutMs ?? 0,
        encrypted: options.encrypted ?? false,
        enablePayloadDigest: options.digest,
        maxTimeSkewMs: options.maxSkewMs,
        replayWindowMs: options.replayWindowMs,
    });
    const master = options.role === "master";
    const named = (name) => (node[name] ?? node[name.toLowerCase()])?.bind(node);
    const wait = { timeoutMs: undefined };
    const timed = (timeoutMs) => (timeoutMs ? { timeoutMs } : wait);
    return {
        flavour: version,
        on(event, listener) {
            if (event.startsWith("master_")) return; // the library has no such event
            node.on(event, (given) =>
                listener(
                    event === "auth_failed" && given
                        ? { ...given, from: given.identityText }
                        : event === "push" && given
                          ? { ...given, from: given.identityText }
                          : given,
                ),
            );
        },
        start: () => node.start(),
    stop: () => node.stop(),
        handle: (handler) => (master ? node.ROUTER(handler) : node.DEALER(handler)),
        request: (...given) =>
            master
                ? node.ROUTER(given[0], single(given[1]), timed(given[2]))
                : node.DEALER(single(given[0]), timed(given[1])),
        publish: (topic, frames) => named("PUBLISH")(topic, single(frames)),
        push: (topic, frames) => named("PUSH")(topic, single(frames)),
        subscribe: (topic, handler) => named("SUBSCRIBE")(topic, handler),
        unsubscribe: (topic) => named("UNSUBSCRIBE")(topic),
        addKey: (id, key) => node.addAuthKey(id, key),
        removeKey: (id) => node.removeAuthKey(id),
        get slaves() {
            return node.slaves;
        },
        get masterOnline() {
            return node.isMasterOnline();
        },
        service() {
            throw new Error("the library has no public way to add a service");
        },
        async serviceRequest(id, service, frames, timeoutMs) {
            const asked = JSON.parse(frames[0].toString());
            if (service !== "fs" || asked.op !== "file/stat")
                throw new Error("the library only asks the service fs");
            return [
                Buffer.from(
                    JSON.stringify(await node.fs.stat(id, asked.path, timed(timeoutMs))),
                ),
            ];
        },
    };
}

// --- commands ------------------------------------------------------------------------------

let node, config;
let watching = false;
const isMaster = () => config.role === "master";

const ask = (to, frames, timeoutMs) =>
    isMaster() ? node.request(to, frames, timeoutMs) : node.request(frames, timeoutMs);

async function script({ payload, from, identityText }) {
    const frames = Array.isArray(payload) ? payload : [payload];
    const first = frames.length > 0 ? Buffer.from(frames[0]).toString() : "";
    const ms = /^sleep:(\d+)/.exec(first);
    if (ms) await sleep(Number(ms[1]));
    if (first === "throw") throw new Error("thrown by the script");
    if (first === "nil") return undefined;
    if (first.startsWith("back:"))
        return ask(identityText ?? from, [Buffer.from(first.slice(5))], 1000);
    return single(frames);
}

const commands = {
    async start(given) {
        config = given;
        node = await (realPath ? openReal : openOwn)({
            role: given.role,
            id: given.id,
            endpoint: given.endpoint,
            encrypted: given.encrypted,
            authKey: given.auth_key,
            authKeyMap: given.auth_keys,
            kdfSalt: given.kdf_salt,
            digest: given.digest,
            heartbeatMs: given.heartbeat_ms,
            heartbeatTimeoutMs: given.heartbeat_timeout_ms,
            maxPending: given.max_pending,
            maxSkewMs: given.max_skew_ms,
            flavour: given.flavour,
        });
        const emit = (ev, fields) => write({ ev, ...fields });
        node.on("slave_connected", (id) => emit("slave_connected", { id: String(id) }));
        node.on("slave_disconnected", (id) => emit("slave_disconnected", { id: String(id) }));
        node.on("master_online", () => emit("master_online"));
        node.on("master_offline", () => emit("master_offline"));
        node.on("auth_failed", (event) =>
            emit("auth_failed", {
                reason: String(event?.reason),
                kind: event?.kind,
                from: event?.from,
            }),
        );
        node.on("push", ({ from, topic, payload }) =>
            emit("push", { from, topic, frames: toHex(payload) }),
        );
        node.on("publish", ({ topic, payload }) =>
            emit("publish", { topic, frames: toHex(payload) }),
        );
        node.on("request", ({ payload }) => emit("request", { frames: toHex(payload) }));
        node.on("response", ({ payload }) => emit("response", { frames: toHex(payload) }));
        node.on("message", (event) => {
            if (!watching) return;
            const frames = isMaster() ? event.frames.slice(1) : event.frames;
            emit("raw", { frames: frames.map((frame) => Buffer.from(frame).toString("hex")) });
        });
        node.on("error", (error) =>
            emit("error", { message: String(error?.message ?? error) }),
        );
        if (given.handler !== "none") node.handle(script);
        await node.start();
        return { flavour: node.flavour };
    },
    watch: () => {
        watching = true;
    },
    stop: () => node.stop(),
    restart: () => node.start(),
    async request({ to, frames, timeout_ms }) {
        return toHex(await ask(to, fromHex(frames), timeout_ms));
    },
    async request_many({ to, count, text, timeout_ms }) {
        const began = performance.now();
        const failed = {};
        let ok = 0;
        await Promise.all(
            Array.from({ length: count }, async (_, i) => {
                const payload = text ?? `request ${i}`;
                try {
                    const answer = single(
                        toHex(await ask(to, [Buffer.from(payload)], timeout_ms)),
                    );
                    if (Buffer.from(answer, "hex").toString() === payload) ok++;
                    else failed.WRONG = (failed.WRONG ?? 0) + 1;
                } catch (error) {
                    const code = error.code ?? error.message;
                    failed[code] = (failed[code] ?? 0) + 1;
                }
            }),
        );
        return { ok, failed, ms: Math.round(performance.now() - began) };
    },
    publish: async ({ topic, frames }) => {
        await node.publish(topic, fromHex(frames));
    },
    push: async ({ topic, frames }) => {
        await node.push(topic, fromHex(frames));
    },
    async publish_many({ topic, count }) {
        for (let i = 0; i < count; i++) node.publish(topic, [Buffer.from(String(i))]);
    },
    async push_many({ topic, count }) {
        for (let i = 0; i < count; i++) node.push(topic, [Buffer.from(String(i))]);
    },
    subscribe({ topic }) {
        node.subscribe(topic, ({ payload }) =>
            write({ ev: "subscribed", topic, frames: toHex(payload) }),
        );
    },
    unsubscribe: ({ topic }) => {
        node.unsubscribe(topic);
    },
    service({ name, mode }) {
        node.service(name, ({ payload }) => {
            if (mode === "throw") throw new Error("the service failed");
            return payload;
        });
    },
    async service_request({ to, service, frames, timeout_ms }) {
        return toHex(await node.serviceRequest(to, service, fromHex(frames), timeout_ms));
    },
    slaves: () => node.slaves,
    online: () => node.masterOnline,
    counters: () => ({}),
    add_key: ({ slave, key }) => {
        node.addKey(slave, key);
    },
    remove_key: ({ slave }) => {
        node.removeKey(slave);
    },
    exit: () => process.exit(0),
};

async function run(line) {
    const { n, cmd, ...given } = JSON.parse(line);
    try {
        if (!Object.hasOwn(commands, cmd)) throw new Error(`unknown command ${cmd}`);
        write({ re: n, ok: true, value: (await commands[cmd](given)) ?? null });
    } catch (error) {
        write({
            re: n,
            ok: false,
            code: error.code ?? "ERROR",
            error: String(error.message ?? error),
        });
    }
}

process.on("unhandledRejection", (error) =>
    write({ ev: "unhandled", message: String(error?.message ?? error) }),
);
createInterface({ input: process.stdin })
    .on("line", run)
    .on("close", () => process.exit(0));
