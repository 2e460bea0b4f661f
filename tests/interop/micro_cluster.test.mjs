// micro_cluster.test.mjs - two registries of znlrun that answer for one fleet, over a nats-server: nodes
// of both releases and of znlrun at either of them, one registry killed, NATS gone and back. Nodes of
// the releases know one address; behind it is a balancer that leads to a registry that accepts.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { on, once } from "node:events";
import { connect, createServer } from "node:net";
import { after, before, describe, test } from "node:test";
import { endAll, KINDS, MicroPeer, NO_LUA } from "./micro_peers.mjs";
import { startNats } from "./nats_server.mjs";
import { until } from "./scene.mjs";

const limit = { timeout: 60000 };

/** One address for several ports: a connection goes to the first that accepts. */
async function balancer(ports) {
    const server = createServer((socket) => {
        socket.on("error", () => {});
        const attempt = ([port, ...rest]) => {
            if (port === undefined) return socket.destroy();
            const target = connect(port, "127.0.0.1");
            let open = false;
            target.on("connect", () => {
                open = true;
                socket.pipe(target).pipe(socket);
            });
            target.on("error", () => (open ? socket.destroy() : attempt(rest)));
            target.on("close", () => open && socket.destroy());
            socket.on("close", () => target.destroy());
        };
        attempt(ports);
    });
    server.listen(0, "127.0.0.1");
    await once(server, "listening");
    return server;
}

describe("two registries for one fleet", { skip: NO_LUA, concurrency: 1 }, () => {
    let nats, first, second, applications, lua, front, back;
    const peers = [];
    const killed = new Set();

    const peer = (kind) => {
        const made = new MicroPeer(kind);
        peers.push(made);
        return made;
    };
    const registry = async (name) => {
        const object = peer("lua").object(name, "lua");
        await object.start("registry", undefined, {
            config_dir: false,
            cluster: { bus: nats.url, name: "interop", label: name, ttl_ms: 1000, grace_ms: 6000 },
        });
        return object;
    };
    let serial = 0;
    const application = async (kind, namespace, port, config = {}) => {
        const object = (kind === "lua" ? lua : applications).object(`${namespace}-${++serial}`, kind);
        await object.start("application", port, { namespace, reconnect_ms: 200, ...config });
        return object;
    };
    /** A call that is answered by an instance of the namespace. */
    const ask = async (consumer, namespace) => {
        const { data } = await consumer.call("call", { namespace, url: "/name", timeout_ms: 5000 });
        assert.equal(data.name, namespace);
        return true;
    };
    const answers = (consumer, namespace) =>
        until(`${namespace} to be found`, () => ask(consumer, namespace).catch(() => false));

    before(async () => {
        nats = await startNats({});
        first = await registry("first");
        second = await registry("second");
        applications = peer("js");
        lua = peer("lua");
        front = await balancer([first.port, second.port]);
        back = await balancer([second.port, first.port]);
    });

    after(async () => {
        front?.close();
        back?.close();
        await endAll(peers.filter((one) => !killed.has(one)));
        await nats?.remove();
    });

    for (const provider of KINDS)
        for (const consumer of KINDS)
            test(`${provider} at one, ${consumer} at the other`, limit, async () => {
                const namespace = `svc.${provider}.${consumer}`;
                const p = await application(provider, namespace, first.port);
                const c = await application(consumer, `for.${namespace}`, second.port);
                await answers(c, namespace);
                if (provider === "v1" || consumer === "v1") return await Promise.all([p.stop(), c.stop()]);
                const topic = `topic ${namespace}`;
                await c.call("subscribe", { topic, label: "s" });
                await p.call("publish", { topic, data: { n: 1 } });
                await c.event("topic", ({ data }) => data?.n === 1);
                await p.call("update", { topic, data: { n: 2 } });
                await c.event("topic", ({ data }) => data?.n === 2);
                await p.stop();
                await until("it is gone", () =>
                    ask(c, namespace).then(
                        () => false,
                        () => true,
                    ),
                );
                await c.stop();
            });

    test("NATS gone and back: what came meanwhile is found", limit, async () => {
        const c = await application("v2", "nats.c", second.port);
        await nats.kill();
        const p = await application("v2", "nats.p", first.port);
        await assert.rejects(ask(c, "nats.p"));
        await nats.restart();
        await answers(c, "nats.p");
        await Promise.all([p.stop(), c.stop()]);
    });

    test("one killed: nobody notices, and all are listed by the other", limit, async () => {
        const providers = {};
        const namespaces = KINDS.map((kind) => `live.${kind}`);
        for (const kind of KINDS)
            providers[kind] = await application(kind, `live.${kind}`, front.address().port);
        // The consumers are at the one that stays: each look-up of theirs asks it.
        const consumers = await Promise.all(
            KINDS.map((kind) => application(kind, `live.for.${kind}`, back.address().port)),
        );
        const topic = "live topic";
        if (KINDS.includes("v2")) await providers.v2.call("publish", { topic, data: "kept" });
        for (const c of consumers) for (const name of namespaces) await answers(c, name);
        const failures = [];
        let rounds = 0;
        let over = false;
        const load = Promise.all(
            consumers.map(async (c) => {
                while (!over) {
                    for (const name of namespaces)
                        await ask(c, name).catch((error) =>
                            failures.push(`${c.kind} calls ${name}: ${error.message}`),
                        );
                    rounds++;
                }
            }),
        );
        const someMore = (count) => {
            const goal = rounds + count;
            return until("the load goes on", () => rounds >= goal, 30000);
        };
        await someMore(100);
        killed.add(first.peer);
        first.peer.process.kill("SIGKILL");
        await someMore(100);
        // Newcomers at the one that is left: nothing is in their hands yet but its answers.
        const fresh = await application("v1", "live.fresh", second.port);
        for (const name of namespaces)
            await ask(fresh, name);
        // Longer than ttl_ms and grace_ms: who is found then has come back.
        const late = peer("lua").object("late", "lua");
        await late.start("registry", undefined, {
            config_dir: false,
            cluster: { bus: nats.url, name: "interop", label: "late", ttl_ms: 1000, grace_ms: 6000 },
        });
        const looker = await application("lua", "live.looker", late.port);
        await until("the first one is forgotten", () => registriesOf(late.port).then((n) => n === 2), 30000);
        await someMore(20);
        over = true;
        await load;
        assert.deepEqual(failures, []);
        for (const name of namespaces)
            await ask(looker, name);
        if (KINDS.includes("v2")) {
            await looker.call("subscribe", { topic, label: "s" });
            await looker.event("topic", ({ data }) => data === "kept");
        }
    });
});

/** How many registries one knows, itself included. */
async function registriesOf(port) {
    const { WebSocket } = await import("ws");
    const socket = new WebSocket(`ws://127.0.0.1:${port}/looker/1/looker`, {
        headers: { "Znl-Observer": "1" },
    });
    try {
        await once(socket, "open");
        socket.send(
            JSON.stringify({ id: 1, twoway: true, mode: 0, data: { url: "/-/registry/status" } }),
        );
        for await (const [data] of on(socket, "message")) {
            const frame = JSON.parse(data);
            if (frame.mode === 1 && frame.id === 1) return frame.data.data.cluster.registries.length;
        }
    } finally {
        socket.terminate();
    }
}
