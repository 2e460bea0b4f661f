// micro.test.mjs - registries, providers and consumers of the micro protocol in every mix: v1 and v2
// are the releases 1.0.5 and 2.0.15 of micro.mjs, lua is znlrun. A name like "lua/v1/v2" says who
// is registry, provider and consumer. What hostile peers do is in micro_hostile.test.mjs.
//
//   ZNLRUN     the binary; default ../../build/znlrun. Without it what needs it is skipped.
//   ZNL_KINDS  only these: "v1,v2,lua"
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { endAll, freePort, KINDS, MicroPeer, NO_LUA, QUIET } from "./micro_peers.mjs";
import { Raw } from "./micro_raw.mjs";
import { sleep, until } from "./scene.mjs";

const limit = { timeout: 120000 };
const mixes = KINDS.flatMap((registry) =>
    KINDS.flatMap((provider) =>
        KINDS.map((consumer) => ({
            name: `${registry}/${provider}/${consumer}`,
            registry,
            provider,
            consumer,
            skip: [registry, provider, consumer].includes("lua") ? NO_LUA : false,
        })),
    ),
);
const without = (kind, ...roles) => roles.every((role) => role !== kind);

// One process per implementation and role serves every mix: each mix has objects of its own.
const processes = {};
let serial = 0;

before(() => {
    for (const role of ["registry", "provider", "consumer"])
        for (const kind of NO_LUA ? ["js"] : ["js", "lua"])
            processes[`${role} ${kind}`] = new MicroPeer(kind);
});

after(() => endAll(Object.values(processes)));

/** Starts objects of a mix; `body` gets them by role. They are stopped whatever happens. */
async function world(mix, configs, body) {
    const number = ++serial;
    const made = [];
    const w = { mix };
    w.start = async (role, config = {}, label = role) => {
        const kind = mix[role];
        const object = processes[`${role} ${kind === "lua" ? "lua" : "js"}`].object(
            `${label}-${number}`,
            kind,
        );
        made.push(object);
        await object.start(
            role === "registry" ? "registry" : "application",
            w.registry?.port,
            config,
        );
        return object;
    };
    try {
        for (const role of ["registry", "provider", "consumer"])
            if (configs[role] !== false) w[role] = await w.start(role, configs[role]);
        await body(w);
    } finally {
        for (const object of made.reverse()) await object.stop();
    }
}

const everyMix = (title, configs, body, fits = () => true, concurrency = 4) =>
    describe(title, { concurrency }, () => {
        for (const mix of mixes)
            if (fits(mix))
                test(mix.name, { skip: mix.skip, ...limit }, () => world(mix, configs, body));
    });

const ours = ({ provider, consumer }) => provider === "lua" && consumer === "lua";
const SVC = { namespace: "provider" };
const failing = async (promise) => {
    let value;
    try {
        value = await promise;
    } catch (error) {
        return error;
    }
    return assert.fail(`it succeeded: ${JSON.stringify(value)}`);
};

// --- calls ---------------------------------------------------------------------------------

const VALUES = [
    { a: 1, nested: { list: [1, "two", null, { deep: true }], empty: [], none: {} } },
    null,
    "text, ünïcödé ✓ \u0000 \"quoted\" \\ \u2028",
    7,
    -1.5e-7,
    9007199254740991,
    0,
    "",
    [1, 2],
    [],
    {},
    true,
    false,
];

everyMix("calls", {}, async ({ provider, consumer, mix }) => {
    const ask = (url, data, more) =>
        consumer.call("request", { ...SVC, url, data, timeout_ms: 5000, ...more });
    for (const value of VALUES)
        assert.deepEqual(await ask("/echo", value), { data: value }, JSON.stringify(value));
    assert.deepEqual(await ask("/echo"), {}, "nothing");
    assert.deepEqual(await ask("/null"), { data: null });
    assert.deepEqual(await ask("/undefined"), {});
    assert.deepEqual(await ask("/users/a%20b", { q: 1 }), {
        data: { params: { id: "a%20b" }, url: "/users/a%20b", data: { q: 1 } },
    });
    assert.deepEqual(await ask("/files/a/b.txt", {}), { data: { params: { _: "a/b.txt" } } });

    const errors = {
        "/fail": [500, "boom"],
        "/fail/status": [418, "teapot"],
        "/fail/code": ["E_BUSINESS", "rejected"],
    };
    for (const [url, [code, message]] of Object.entries(errors)) {
        const error = await failing(ask(url, {}));
        assert.equal(error.code, code, url);
        assert.equal(error.message, message, url);
    }
    const nowhere = await failing(ask("/nowhere", {}));
    // Between two of ours the status says what it is.
    assert.equal(nowhere.code, ours(mix) ? "NOT_FOUND" : 500);

    await consumer.call("push", { ...SVC, url: "/log", data: { line: 1 } });
    await consumer.call("push", { ...SVC, url: "/nowhere", data: { line: 2 } });
    await until("the push", async () => (await provider.call("log")).length > 0);
    assert.deepEqual(await provider.call("log"), [{ line: 1 }]);

    // The provider asks back over the connection it was asked on.
    assert.deepEqual(await ask("/callback", { url: "/name", data: { x: 1 } }), {
        data: { reply: { name: "consumer", data: { x: 1 } } },
    });

    const health = (await ask("/-/health", {})).data;
    assert.equal(health.status, "ok");
    assert.equal(health.registry, true);
    assert.ok(health.uptime > 0 && Array.isArray(health.namespaces), JSON.stringify(health));

    const called = (await consumer.call("call", { ...SVC, url: "/echo", data: { b: 2 } })).data;
    assert.equal(called.b, 2);
    assert.equal(typeof called._correlationId, mix.consumer === "v1" ? "string" : "undefined");
    const many = await consumer.call("call_many", {
        ...SVC,
        url: "/echo",
        data: { c: 3 },
        count: 300,
        at_once: 100,
    });
    assert.equal(many.ok, 300, JSON.stringify(many));
    assert.match((await failing(consumer.call("get", { namespace: "nobody" }))).message, /not found/i);
});

everyMix("limits and abandoning", {}, async ({ provider, consumer, mix }) => {
    const slow = { ...SVC, url: "/slow", data: { ms: 2500 } };
    await consumer.call("request", { ...slow, data: { ms: 1 } });
    const late = await failing(consumer.call("request", { ...slow, timeout_ms: 60 }));
    const codes = { v1: ["ECONNABORTED"], v2: ["ETIMEDOUT"], lua: ["TIMEOUT"] };
    assert.ok(codes[mix.consumer].includes(late.code), late.code);
    if (mix.consumer !== "v2")
        await provider.event("cancelled", ({ url }) => url === "/slow"); // an abort frame came
    if (mix.consumer !== "v1") {
        const given = await failing(consumer.call("request", { ...slow, abort_after_ms: 60 }));
        assert.ok(["ECONNABORTED", "CANCELLED"].includes(given.code), given.code);
        const count = mix.consumer === "v2" ? 1 : 2;
        await until("the handlers to notice", () => provider.all("cancelled").length >= count);
    }
    // The connection is as good as before.
    assert.deepEqual(await consumer.call("request", { ...SVC, url: "/echo", data: 1 }), {
        data: 1,
    });
});

everyMix(
    "a provider that goes, another that comes",
    { provider: false },
    async ({ start, consumer, mix }) => {
        const first = await start("provider", { api_name: "first" }, "first");
        const ask = (more) =>
            consumer.call("call", { ...SVC, url: "/api", data: {}, timeout_ms: 3000, ...more });
        assert.equal((await ask()).data.from, "first");
        const pending = failing(
            consumer.call("request", {
                ...SVC,
                url: "/slow",
                data: { ms: 5000 },
                timeout_ms: 1500,
            }),
        );
        await until("the request", async () => (await first.call("runs")) === 1);
        const began = Date.now();
        await first.stop();
        await pending;
        if (mix.consumer !== "v1") assert.ok(Date.now() - began < 1200, "it did not end at once");
        await until("it to be unlisted", async () => {
            const error = await ask({ retries: 0 }).catch((e) => e);
            return error instanceof Error && /not found/i.test(error.message);
        });
        await start("provider", { api_name: "second" }, "second");
        assert.equal((await ask()).data.from, "second");
    },
);

everyMix(
    "a failing instance is avoided",
    {
        provider: { api_fails: true },
        consumer: { retry: "always", breaker: { failure_threshold: 1 }, connections: 1 },
    },
    async ({ start, consumer }) => {
        const ask = () =>
            consumer.call("call", { ...SVC, url: "/api", data: {}, retries: 1, retry: "always" });
        await failing(ask());
        await start("provider", { api_name: "good" }, "good");
        // The first attempts may still end at the failing one; then it is excluded.
        await until("the other instance", async () => {
            const answer = await ask().catch(() => undefined);
            return answer?.data.from === "good";
        });
        for (let i = 0; i < 10; i++) assert.equal((await ask()).data.from, "good");
    },
);

// --- streams -------------------------------------------------------------------------------

everyMix(
    "streams",
    {},
    async ({ provider, consumer, mix }) => {
        const stream = (url, data = {}, more = {}) =>
            consumer.call("stream", { ...SVC, url, data, ...more });
        assert.deepEqual(await stream("/stream"), {
            chunks: [{ seq: 1 }, { seq: 2 }, { seq: 3 }],
        });
        const many = await stream("/stream/count", { count: 3000 });
        assert.equal(many.error, undefined);
        assert.deepEqual(
            many.chunks.map(({ seq }) => seq),
            Array.from({ length: 3000 }, (_, i) => i + 1),
        );
        assert.deepEqual(await stream("/stream/count", { count: 0 }), { chunks: [] });

        const ends = async (url, status, message, chunks) => {
            const { error, chunks: seen } = await stream(url);
            assert.equal(error?.status, status, url);
            if (message) assert.equal(error.message, message, url);
            assert.deepEqual(seen, chunks, url);
        };
        // Between two of ours the message crosses.
        const hidden = ours(mix) ? "hidden from the asker" : "Unknown error";
        await ends("/stream/fail", 500, hidden, [{ seq: 1 }]);
        await ends("/stream/exception", 409, "conflict", [{ seq: 1 }]);
        await ends("/echo", 500, "Invalid async iterable", []);
        const nowhere = await stream("/nowhere");
        assert.equal(nowhere.error.status, ours(mix) ? "NOT_FOUND" : 500, "no route");
        const plain = await failing(
            consumer.call("request", { ...SVC, url: "/stream", data: {} }),
        );
        assert.equal(plain.message, "Async iterable is not supported");

        const given = await stream("/stream/slow", {}, { abort_after_ms: 100 });
        assert.ok(given.error, "an abort ends the stream");
        assert.ok(given.chunks.length >= 1 && given.chunks.length <= 4);
        const taken = await stream("/stream/slow", {}, { take: 2 });
        assert.deepEqual(taken.chunks, [{ seq: 1 }, { seq: 2 }]);
        assert.deepEqual(await provider.call("log"), []);
        const values = [{ data: "text" }, 7, [1, 2]];
        for (const value of values)
            assert.deepEqual((await consumer.call("request", { ...SVC, url: "/echo", data: value })).data, value);
    },
    (mix) => without("v1", mix.provider, mix.consumer),
);

test("a stream dropped by us stops its producer", { skip: NO_LUA, ...limit }, () =>
    world({ registry: "v2", provider: "lua", consumer: "lua" }, {}, async (w) => {
        await w.consumer.call("stream", { ...SVC, url: "/stream/slow", data: {}, take: 2 });
        await w.provider.event("cancelled", ({ url }) => url === "/stream/slow");
    }),
);

// --- topics --------------------------------------------------------------------------------

const delivered = (object) => object.all("topic").map(({ data }) => data);

everyMix(
    "topics",
    { provider: { reconnect_ms: 100 }, consumer: { reconnect_ms: 100 } },
    async ({ provider, consumer, registry }) => {
        const topic = "prices";
        const seen = (count) =>
            until(
                `${count} deliveries, has ${JSON.stringify(delivered(consumer))}`,
                () => delivered(consumer).length >= count,
            );
        await consumer.call("subscribe", { topic });
        await provider.call("publish", { topic, data: { v: 1 } });
        await seen(1);
        await provider.call("update", { topic, data: { v: 2, list: [], none: null } });
        await seen(2);
        await provider.call("update", { topic, data: { none: null, list: [], v: 2 } });
        await provider.call("update", { topic, data: "three" });
        await seen(3);
        assert.deepEqual(delivered(consumer), [
            { v: 1 },
            { v: 2, list: [], none: null },
            "three",
        ]);
        await consumer.call("subscribe", { topic, label: "late" });
        const late = await consumer.event("topic", ({ label }) => label === "late");
        assert.equal(late.data, "three");

        // The registry goes and comes back empty: everything is there again.
        consumer.forget();
        await registry.stop();
        await registry.restart();
        await until("the topic to be back", () =>
            consumer.all("topic").some(({ data, label }) => data === "three" && label === topic),
        );
        await provider.call("update", { topic, data: 4 });
        await until("an update", () => consumer.all("topic").some(({ data }) => data === 4));
        await provider.call("unpublish", { topic });
        await consumer.call("unsubscribe", { topic });
        await consumer.call("unsubscribe", { topic, label: "late" });
    },
    (mix) => without("v1", mix.registry, mix.provider, mix.consumer),
);

// --- life and death ------------------------------------------------------------------------

// Silence of twice the timeout, which leaves room for a busy machine: all mixes wait side by side.
const BEATS = { heartbeat_ms: 150, heartbeat_timeout_ms: 1500, heartbeat_check_ms: 100 };

everyMix(
    "we keep connections to both releases, idle as they are",
    { registry: BEATS, provider: BEATS, consumer: BEATS },
    async ({ registry, provider, consumer, mix }) => {
        await consumer.call("get", SVC);
        for (const object of [registry, provider, consumer]) object.forget();
        await sleep(3200);
        // Two originals of different releases drop each other; ours must not be concerned.
        const lost = (object, about) =>
            object.all("disconnected", ({ key }) => key.endsWith(`:${about.port}`));
        const pairs = [
            ["registry", "provider"],
            ["registry", "consumer"],
            ["provider", "consumer"],
        ];
        const objects = { registry, provider, consumer };
        for (const [one, other] of pairs) {
            if (mix[one] !== "lua" && mix[other] !== "lua") continue;
            assert.deepEqual(lost(objects[one], objects[other]), [], `${one} lost ${other}`);
            assert.deepEqual(lost(objects[other], objects[one]), [], `${other} lost ${one}`);
        }
        const answer = await consumer.call("call", { ...SVC, url: "/echo", data: {} });
        assert.ok(answer.data);
    },
    (mix) => Object.values(mix).includes("lua"),
    32,
);

everyMix(
    "the registry goes and comes back",
    { provider: { reconnect_ms: 100 }, consumer: { reconnect_ms: 100 } },
    async ({ registry, consumer, start }) => {
        const ask = () => consumer.call("call", { ...SVC, url: "/echo", data: {} });
        await ask();
        await registry.stop();
        for (let i = 0; i < 5; i++) await ask(); // the connection at hand is enough
        await registry.restart();
        const other = await start("consumer", {}, "other");
        await until("the provider to be listed again", () =>
            other.call("get", SVC).then(
                () => true,
                () => false,
            ),
        );
    },
);

test("calls to oneself stay at home", { skip: NO_LUA, ...limit }, () =>
    world({ registry: "v2", provider: "lua", consumer: "lua" }, {}, async ({ provider }) => {
        const answer = await provider.call("call", { ...SVC, url: "/name", data: 1 });
        assert.deepEqual(answer.data, { name: "provider", data: 1 });
        assert.deepEqual(provider.all("disconnected"), []);
    }),
);

describe("two applications that open connections to each other at once", () => {
    for (const other of KINDS)
        test(`lua and ${other}`, { skip: NO_LUA, ...limit }, () =>
            world({ registry: "v2", provider: "lua", consumer: other }, {}, async (w) => {
                const { provider, consumer } = w;
                const ask = (from, namespace) =>
                    from.call("call", {
                        namespace,
                        url: "/echo",
                        data: { from: namespace },
                        timeout_ms: 1000,
                        retries: 1,
                        retry: "always",
                    });
                const rounds = [];
                for (let i = 0; i < 5; i++) rounds.push(ask(provider, "consumer"));
                // Three failures would open the breaker of an original.
                for (let i = 0; i < 2; i++) rounds.push(ask(consumer, "provider"));
                for (const { data } of await Promise.all(rounds)) assert.ok(data.from);
                // And it settles: what follows works at once in both directions.
                for (let i = 0; i < 10; i++) {
                    assert.equal((await ask(provider, "consumer")).data.from, "consumer");
                    assert.equal((await ask(consumer, "provider")).data.from, "provider");
                }
            }),
        );
});

describe("processes that die", { concurrency: 2 }, () => {
    /** Objects in processes of their own. */
    async function apart(kinds, body) {
        const peers = [];
        const w = {
            async start(role, kind, config, label = role) {
                const peer = new MicroPeer(kind === "lua" ? "lua" : "js");
                peers.push(peer);
                const object = peer.object(label, kind);
                await object.start(
                    role === "registry" ? "registry" : "application",
                    w.registryPort,
                    config,
                );
                return Object.assign(object, { peer });
            },
        };
        try {
            w.registryPort = await freePort();
            w.registry = await w.start("registry", kinds.registry, { port: w.registryPort });
            await body(w);
        } finally {
            await endAll(peers);
        }
    }

    test("a registry killed under load costs no call", { skip: NO_LUA, ...limit }, () =>
        apart({ registry: "lua" }, async (w) => {
            const provider = await w.start("provider", "lua", { reconnect_ms: 300 });
            const consumer = await w.start("consumer", "lua", { reconnect_ms: 300 });
            const v2 = await w.start("consumer", "v2", { namespace: "v2", reconnect_ms: 300 });
            const load = (object) =>
                object.call("call_many", {
                    ...SVC,
                    url: "/echo",
                    data: { n: 1 },
                    count: 20000,
                    at_once: 20,
                });
            for (const object of [consumer, v2]) await object.call("get", SVC);
            const running = [load(consumer), load(v2)];
            await sleep(100);
            await w.registry.peer.kill();
            await sleep(300);
            w.registry = await w.start("registry", "lua", { port: w.registryPort });
            for (const result of await Promise.all(running))
                assert.equal(result.ok, 20000, JSON.stringify(result));
            const other = await w.start("consumer", "v2", { namespace: "late" });
            for (const namespace of ["provider", "consumer", "v2"])
                await until(`${namespace} to be listed again`, () =>
                    other.call("get", { namespace }).then(
                        () => true,
                        () => false,
                    ),
                );
            assert.ok(provider);
        }),
    );

    test("a provider killed under load: the other answers", { skip: NO_LUA, ...limit }, () =>
        apart({ registry: "lua" }, async (w) => {
            const one = await w.start("provider", "lua", { api_name: "one" }, "one");
            await w.start("provider", "v2", { api_name: "two" }, "two");
            const consumer = await w.start("consumer", "lua", { retry: "always" });
            const many = (count) =>
                consumer.call("call_many", {
                    ...SVC,
                    url: "/api",
                    data: {},
                    count,
                    at_once: 20,
                    retries: 3,
                });
            await many(100);
            const running = many(5000);
            await sleep(50);
            await one.peer.kill();
            const result = await running;
            assert.equal(result.ok, 5000, JSON.stringify(result));
        }),
    );

    test("a frozen provider is unlisted first, closed later", { skip: NO_LUA, ...limit }, () =>
        apart({ registry: "lua" }, async (w) => {
            await w.registry.stop();
            const beats = { ...BEATS, port: w.registryPort };
            w.registry = await w.start("registry", "lua", beats, "again");
            const provider = await w.start("provider", "v2", BEATS);
            const consumer = await w.start("consumer", "v2", BEATS);
            provider.peer.process.kill("SIGSTOP");
            const began = Date.now();
            const find = {
                host: "127.0.0.1",
                port: w.registryPort,
                url: "/-/find",
                data: SVC,
            };
            await until(
                "it to be unlisted",
                async () => (await consumer.call("request", find)).data === undefined,
            );
            // The originals keep it listed for 30 s more.
            assert.ok(Date.now() - began < 6000, `${Date.now() - began} ms`);
            provider.peer.process.kill("SIGCONT");
        }),
    );

    test("an instance that a v1 registry has lost comes back", { skip: NO_LUA, ...limit }, () =>
        apart({ registry: "v1" }, async (w) => {
            const port = await freePort();
            // Somebody holds the key, is replaced, and takes its time to close: that unlists the key.
            const old = await new Raw(w.registryPort).open(`/127.0.0.1/${port}/provider`);
            await w.start("provider", "lua", { port });
            await old.end();
            await sleep(150);
            old.destroy();
            const consumer = await w.start("consumer", "v2");
            const isListed = () =>
                consumer.call("get", SVC).then(
                    () => true,
                    () => false,
                );
            await until("it to be listed again", isListed, 12000);
        }),
    );

    test("the environment of the originals sets our heartbeat", { skip: NO_LUA, ...limit }, async () => {
        const peer = new MicroPeer("lua", { env: { MICRO_HEARTBEAT_INTERVAL: "80" } });
        const registry = peer.object("registry", "lua");
        await registry.start("registry", undefined, {
            heartbeat_ms: null,
            heartbeat_timeout_ms: null,
            heartbeat_check_ms: null,
        });
        const raw = await new Raw(registry.port).open("/10.0.0.1/1/quiet");
        const beats = () => raw.frames.filter(({ payload }) => payload.includes("/-/heartbeat"));
        await until("two heartbeats", () => beats().length >= 2, 2000);
        raw.destroy();
        await peer.end();
    });

    test("a registry with a secret", { skip: NO_LUA, ...limit }, () =>
        apart({ registry: "lua" }, async (w) => {
            await w.registry.stop();
            const secret = "a secret of this test";
            const port = w.registryPort;
            w.registry = await w.start("registry", "lua", { port, secret }, "again");
            const address = { host: "127.0.0.1", port };
            await w.start("provider", "lua", { registry: { ...address, secret } });
            await failing(w.start("consumer", "v2"));
            await failing(w.start("consumer", "lua", { registry: { ...address, secret: "no" } }));
            const consumer = await w.start("consumer", "lua", {
                registry: { ...address, secret },
            });
            const answer = await consumer.call("call", { ...SVC, url: "/echo", data: 1 });
            assert.deepEqual(answer, { data: 1 });
        }),
    );

    test("a consumer of ours that does not read holds the producer back", { skip: NO_LUA, ...limit }, () =>
        apart({ registry: "lua" }, async (w) => {
            const provider = await w.start("provider", "lua");
            const consumer = await w.start("consumer", "lua");
            const stream = { ...SVC, url: "/stream/count", data: { count: 10000000 } };
            await consumer.call("stream", { ...stream, take: 1000 });
            const before_ = [provider.peer.rss(), consumer.peer.rss()];
            const { chunks } = await consumer.call("stream", {
                ...stream,
                take: 1000,
                idle_ms: 800,
            });
            assert.equal(chunks.length, 1000);
            const after_ = [provider.peer.rss(), consumer.peer.rss()];
            for (const i of [0, 1])
                assert.ok(after_[i] - before_[i] < 8 * 1024 * 1024, `${after_[i] - before_[i]}`);
        }),
    );
});
