// micro_scenes.mjs - what the program behind each recorded transcript did, by role, in the words of
// micro_peer.mjs; micro_replay.test.mjs plays the other parts.
//
// One scene:
//   config    {role: options of its start}
//   warm      {role: (c) => …}   before the recording begins
//   drive     {role: (c) => …}   while it is played; returns what is compared with the outcome
//   outcome   {role: (outcome) => …}  the part of the outcome this role sees; all of it by default
//   passive   roles that only answer: nothing is driven, nothing compared but frames
//   roles     the roles to test, when not all that are driven or passive
//   before    {role: paths of connections opened to it before the recording}
//   opens     {connection: index of the frame before which it is opened}
//   skip      connections that were closed before the recording begins
//   flavours  {flavour: parts that replace those above}
// c.call(cmd, fields) drives the subject, c.attempt(cmd, fields) gives {result} or {error} as the
// recordings do, c.frame(i) waits until the recording has come to frame i.
//
// SPDX-License-Identifier: MIT
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { until } from "./scene.mjs";

const SVC = { namespace: "svc" };
const got = (c) => c.call("get", SVC);
const warm = { consumer: got };
const given = (sent) => (sent === "__undefined__" ? {} : { data: sent });
const request = (url, data, more) => (c) =>
    c.attempt("request", { ...SVC, url, data, ...more });
const call = (url, data, more) => (c) => c.attempt("call", { ...SVC, url, ...data, ...more });
const AGAIN = { retry: "always", retries: 1 };

/** A request of the consumer that the provider answers on its own. */
const asked = (url, data, more) => ({
    warm,
    drive: { consumer: request(url, data, more) },
    passive: ["provider"],
});

/** A stream of the consumer. */
const streamed = (url, data, more) => ({
    warm,
    drive: {
        async consumer(c) {
            const { chunks, error } = await c.call("stream", { ...SVC, url, data, ...more });
            return error ? { chunks, error } : { chunks };
        },
    },
    passive: ["provider"],
});

const finding = (namespace) => ({
    drive: {
        async consumer(c) {
            const found = await c.attempt("get", { namespace });
            return found.error ? found : c.address(found.key);
        },
    },
    passive: ["registry"],
});


/** A subscriber sees what the recording says was delivered. */
async function delivered(c, count) {
    const seen = () => c.events("topic").map((event) => event.data ?? "__undefined__");
    await until(`${count} deliveries, has ${JSON.stringify(seen())}`, () => seen().length >= count);
    return { delivered: seen() };
}

const writeConfig = (c, namespace, value) =>
    writeFileSync(join(c.configDir, `${namespace}.config.yaml`), JSON.stringify(value));

const timing = (interval, timeout, check) => ({
    heartbeat_ms: interval,
    heartbeat_timeout_ms: timeout,
    heartbeat_check_ms: check,
});

export const SCENES = {
    "bad-frames": { passive: ["registry"] },
    "call-abort": asked("/slow", { ms: 300 }, { abort_after_ms: 60 }),
    "call-abort-retry": {
        warm,
        drive: { consumer: call("/slow", { data: {} }, { ...AGAIN, abort_after_ms: 60 }) },
        outcome: { consumer: ({ result }) => ({ result }) },
        passive: ["provider"],
    },
    "call-failover": {
        config: {
            consumer: { breaker: { failure_threshold: 1 } },
            provider: { api_fails: true },
            provider2: { api_name: "provider2" },
        },
        warm,
        drive: { consumer: call("/api", {}, AGAIN) },
        before: { registry: ["/127.0.0.1/29001/svc", "/127.0.0.1/29003/svc"] },
        passive: ["registry", "provider", "provider2"],
        flavours: {
            "2.0.15": { drive: { consumer: call("/api", { data: {} }, AGAIN) } },
        },
    },
    "call-handler-error": {
        warm,
        drive: {
            async consumer(c) {
                const out = {};
                for (const url of ["/fail", "/fail/status", "/fail/code"])
                    out[url] = await request(url, {})(c);
                return out;
            },
        },
        passive: ["provider"],
    },
    "call-null-undefined": {
        warm,
        drive: {
            async consumer(c) {
                const data = c.flavour === "1.0.5" ? {} : { data: {} };
                const bare = async (url) => ({
                    result: (await call(url, data)(c)).result ?? null,
                });
                return { null: await bare("/null"), undefined: await bare("/undefined") };
            },
        },
        passive: ["provider"],
    },
    "call-ok": {
        warm,
        drive: {
            async consumer(c) {
                const out = [];
                for (const { sent } of c.outcome) {
                    const { result } = await call("/echo", given(sent))(c);
                    out.push({ sent, result: result ?? null });
                }
                return out;
            },
        },
        passive: ["provider"],
    },
    "call-on-generator": {
        warm,
        drive: { consumer: call("/stream", { data: {} }, { retries: 0 }) },
        passive: ["provider"],
    },
    "call-retry-breaker": {
        config: { consumer: { breaker: { failure_threshold: 1 } } },
        // The connection is there, its namespace not looked up: the first call finds it.
        drive: {
            async consumer(c) {
                return {
                    first: await call("/fail", { data: { n: 1 } }, AGAIN)(c),
                    second: await call("/echo", { data: { n: 2 } }, AGAIN)(c),
                };
            },
        },
        before: { registry: ["/127.0.0.1/29001/svc"] },
        passive: ["registry", "provider"],
    },
    "call-routes": {
        warm,
        drive: {
            async consumer(c) {
                const out = {};
                for (const url of Object.keys(c.outcome))
                    out[url] = await request(url, { q: 1 })(c);
                return out;
            },
        },
        passive: ["provider"],
    },
    "call-timeout": asked("/slow", { ms: 300 }, { timeout_ms: 60 }),
    "call-timeout-retry": {
        config: { provider: { slow_ms: 150 } },
        warm,
        drive: { consumer: call("/slow", {}, { ...AGAIN, timeout_ms: 60 }) },
        outcome: { consumer: ({ error }) => ({ error }) },
        before: { registry: ["/127.0.0.1/29001/svc"] },
        passive: ["registry", "provider"],
        flavours: {
            "2.0.15": {
                drive: { consumer: call("/slow", { data: {} }, { ...AGAIN, timeout_ms: 60 }) },
            },
        },
    },
    "call-unknown-url": asked("/nope", {}),
    "config-file-removed": {
        warm: { registry: (c) => writeConfig(c, "gone", { k: 1 }) },
        drive: {
            async registry(c) {
                await c.frame(2);
                rmSync(join(c.configDir, "gone.config.yaml"));
            },
        },
        outcome: { registry: () => undefined },
    },
    "config-topics": {
        config: { consumer: { namespace: "sub" } },
        warm: {
            registry: (c) =>
                writeConfig(c, "my-svc", {
                    debug: true,
                    database: { host: "localhost", port: 5432 },
                }),
        },
        drive: {
            async registry(c) {
                await c.frame(6);
                writeConfig(c, "my-svc", { debug: false });
            },
            async consumer(c) {
                for (const name of ["debug", "database", "absent"])
                    await c.call("subscribe", { topic: `registry:my-svc/${name}` });
                const { delivered: seen } = await delivered(c, 3);
                return seen;
            },
        },
        outcome: {
            registry: () => undefined,
            consumer: (outcome) => outcome.delivered.map(([, value]) => value),
        },
    },
    "connect-bad-path": { passive: ["registry"] },
    "connect-registry": {
        drive: { provider: () => {}, consumer: () => {} },
        outcome: { provider: () => undefined, consumer: () => undefined },
        passive: ["registry"],
    },
    "connect-replace": { passive: ["registry"] },
    "e-field": asked("/e-field", {}),
    "env-lookups-intermediate": {
        config: { registry: { env_routes: true } },
        env: { registry: (ports) => ({ REGISTRY_PORT: String(ports.registry) }) },
        warm: {
            registry: (c) =>
                writeConfig(c, "my-svc", {
                    debug: true,
                    database: { host: "localhost", port: 5432 },
                }),
        },
        passive: ["registry"],
    },
    "env-routes-absent": { passive: ["registry"] },
    "find-exclude": {
        drive: {
            async consumer(c) {
                const exclude = [`127.0.0.1:${c.ports.provider}`];
                const first = await c.attempt("get", { ...SVC, exclude });
                await c.frame(2);
                const { result } = await c.attempt("get", { ...SVC, exclude });
                return { onlyOneExcluded: first, otherReturned: result?.key };
            },
        },
        opens: { c3: 2, c4: 2 },
        passive: ["registry"],
    },
    "find-hit": finding("svc"),
    "find-miss": finding("nobody"),
    "find-raw": { before: { registry: ["/127.0.0.1/29001/svc"] }, passive: ["registry"] },
    health: asked("/-/health", {}),
    "health-on-registry": { passive: ["registry"] },
    heartbeat: {
        config: {
            registry: timing(100, 20000, 5000),
            provider: timing(100, 20000, 5000),
            consumer: timing(100, 20000, 5000),
        },
        warm,
        drive: { provider: () => {}, consumer: () => {} },
        outcome: { provider: () => undefined, consumer: () => undefined },
        passive: ["registry"],
    },
    "heartbeat-timeout": {
        config: { registry: { ...timing(100, 250, 40), strict_heartbeat: true } },
        passive: ["registry"],
    },
    "id-collision": {
        warm,
        drive: {
            consumer: request("/slow", { ms: 150 }),
            async provider(c) {
                await c.frame(1);
                return c.attempt("back", { url: "/slow", data: { ms: 300 }, timeout_ms: 900 });
            },
        },
        outcome: {
            consumer: (outcome) => outcome.callerRequest0,
            provider: (outcome) => outcome.providerRequest0,
        },
    },
    "namespace-non-ascii": {
        drive: {
            async consumer(c) {
                const plain = await c.attempt("get", { namespace: "订单 svc" });
                const encoded = await c.attempt("get", {
                    namespace: "%E8%AE%A2%E5%8D%95%20svc",
                });
                return { plain, encoded: encoded.error ? encoded : { result: encoded.result.key } };
            },
            provider: () => {},
        },
        config: { provider: { namespace: "订单 svc" } },
        outcome: { provider: () => undefined },
        passive: ["registry"],
    },
    "namespace-slashes": {
        ...finding("team/svc"),
        drive: { ...finding("team/svc").drive, provider: () => {} },
        config: { provider: { namespace: "team/svc" } },
        outcome: { provider: () => undefined },
    },
    "provider-gone": {
        warm,
        drive: {
            consumer: request("/slow", { ms: 2000 }, { timeout_ms: 700 }),
            async provider(c) {
                await c.frame(1);
                await until("the request to arrive", async () => (await c.call("runs")) === 1);
                await c.call("stop");
            },
        },
        outcome: { consumer: (outcome) => outcome.pending, provider: () => undefined },
    },
    "pubsub-basic": {
        config: { provider: { namespace: "pub" }, consumer: { namespace: "sub" } },
        drive: {
            async provider(c) {
                const topic = { topic: "prices" };
                await c.call("publish", { ...topic, data: { v: 1 } });
                await c.frame(5);
                await c.call("update", { ...topic, data: { v: 2 } });
                await c.frame(8);
                await c.call("update", { ...topic, data: { v: 2 } });
                await c.frame(10);
                await c.call("unpublish", topic);
            },
            async consumer(c) {
                await c.call("subscribe", { topic: "prices" });
                await c.frame(12);
                const seen = await delivered(c, 2);
                await c.call("unsubscribe", { topic: "prices" });
                return seen;
            },
        },
        outcome: { provider: () => undefined },
        passive: ["registry"],
    },
    "pubsub-late-subscriber": {
        config: { provider: { namespace: "pub" }, consumer: { namespace: "sub" } },
        drive: {
            provider: (c) => c.call("publish", { topic: "prices", data: { v: 1 } }),
            async consumer(c) {
                await c.frame(2);
                await c.call("subscribe", { topic: "prices" });
                return delivered(c, 1);
            },
        },
        outcome: { provider: () => undefined },
        passive: ["registry"],
    },
    "pubsub-publish-offline": {
        config: { provider: { namespace: "pub", reconnect_ms: 100 } },
        warm: {
            async provider(c) {
                await c.call("publish", { topic: "kept", data: { v: "online" } });
                await c.stage.down("registry");
                await until("the link to break", () => c.events("disconnected").length > 0);
                await c.call("publish", { topic: "o", data: { v: "offline" } });
            },
        },
        drive: { provider: (c) => c.stage.listen("registry") },
        outcome: { provider: () => undefined },
        skip: ["c1"],
        passive: ["registry"],
    },
    "pubsub-reconnect": {
        config: {
            provider: { namespace: "pub", reconnect_ms: 100 },
            consumer: { namespace: "sub", reconnect_ms: 100 },
        },
        warm: {
            async provider(c) {
                await c.call("publish", { topic: "o", data: { v: 1 } });
                await c.call("update", { topic: "o", data: { v: 2 } });
                await c.stage.down("registry");
            },
            async consumer(c) {
                await c.call("subscribe", { topic: "o" });
                await c.stage.down("registry");
            },
        },
        drive: {
            provider: (c) => c.stage.listen("registry"),
            async consumer(c) {
                await c.stage.listen("registry");
                return delivered(c, 1);
            },
        },
        outcome: {
            provider: () => undefined,
            consumer: () => ({ delivered: [{ v: 2 }] }), // the others were before the recording
        },
        skip: ["c1", "c2"],
        passive: ["registry"],
    },
    "pubsub-topic-update-route": { passive: ["registry"] },
    "pubsub-two-publishers": {
        config: {
            provider: { namespace: "pub-a" },
            provider2: { namespace: "pub-b" },
            consumer: { namespace: "sub" },
        },
        drive: {
            async provider(c) {
                await c.frame(5);
                await c.call("publish", { topic: "o", data: { from: "a" } });
                await c.frame(8);
                await c.call("unpublish", { topic: "o" });
            },
            async provider2(c) {
                await c.frame(2);
                await c.call("publish", { topic: "o", data: { from: "b" } });
            },
            async consumer(c) {
                await c.call("subscribe", { topic: "o" });
                return delivered(c, 3);
            },
        },
        outcome: { provider: () => undefined, provider2: () => undefined },
        passive: ["registry"],
    },
    "pubsub-undefined": {
        config: {
            provider: { namespace: "pub" },
            consumer: { namespace: "sub" },
            consumer2: { namespace: "sub2" },
        },
        drive: {
            async provider(c) {
                await c.frame(2);
                await c.call("publish", { topic: "u" });
            },
            async consumer(c) {
                await c.call("subscribe", { topic: "u" });
                return delivered(c, 1);
            },
            async consumer2(c) {
                await c.frame(5);
                await c.call("subscribe", { topic: "u" });
                return delivered(c, 1);
            },
        },
        outcome: {
            provider: () => undefined,
            consumer: () => ({ delivered: ["__undefined__"] }),
            consumer2: () => ({ delivered: ["__undefined__"] }),
        },
        passive: ["registry"],
    },
    push: {
        warm,
        drive: {
            async consumer(c) {
                await c.call("push", { ...SVC, url: "/log", data: { line: 1 } });
                await c.call("push", { ...SVC, url: "/nope", data: { line: 2 } });
            },
            async provider(c) {
                await c.frame(2);
                await until("the push", async () => (await c.call("log")).length > 0);
                return { handlerSaw: await c.call("log") };
            },
        },
        outcome: { consumer: () => undefined },
    },
    "reregister-same-key": { before: { registry: ["/192.0.2.1/12345/svc"] }, passive: ["registry"] },
    "reverse-call": {
        warm,
        drive: {
            async consumer(c) {
                await request("/echo", { warmup: true })(c);
                return request("/callback", { url: "/name", data: { x: 1 } })(c);
            },
        },
        passive: ["provider"],
    },
    "stream-3": streamed("/stream", { q: 1 }),
    "stream-abort": {
        ...streamed("/stream/slow", {}, { abort_after_ms: 100 }),
        // The third chunk and the abort cross: it may come or not.
        optional: (frame) => frame.json?.data?.seq === 2,
    },
    "stream-destroy": {
        ...streamed("/stream/slow", {}, { take: 2 }),
        outcome: { consumer: () => ({ chunks: [{ seq: 1 }, { seq: 2 }] }) },
        allow: (json) => json.stream && json.mode === 1, // the recording ends in the midst of it
    },
    "stream-error-midway": streamed("/stream/fail", { q: 1 }),
    "stream-exception-midway": streamed("/stream/exception", { q: 1 }),
    "stream-non-iterable": streamed("/echo", { q: 1 }),
    "stream-unknown-url": streamed("/nope", { q: 1 }),
    "stream-values": {
        ...streamed("/stream/values", {}),
        // What a Node stream makes of null depends on how fast it is read.
        outcome: { consumer: () => undefined },
    },
    teardown: {
        warm,
        drive: {
            consumer: (c) => c.call("stop"),
            async provider(c) {
                await c.frame(4);
                const key = `127.0.0.1:${c.ports.consumer}`;
                await until(
                    "the consumer to be gone",
                    async () => !(await c.call("clients")).includes(key),
                );
                return { providerStillKnowsConsumer: false };
            },
        },
        outcome: { consumer: () => undefined },
        passive: ["registry"],
    },
};
