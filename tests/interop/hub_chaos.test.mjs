// hub_chaos.test.mjs - instances of ws-cluster when things break: the server killed under load, the
// network cut, instances killed or halted, ten thousand members. Foreign instances and those of
// znlrun, and both together.
//
//   ZNLRUN     the binary; default ../../build/znlrun. Without it the pairs with lua are skipped.
//   ZNL_HUB    only these: "npm,lua"
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { describe, test } from "node:test";
import { CHAT, KINDS, NO_LUA, PAIRS, PATIENCE_MS, stage } from "./hub_peers.mjs";
import { sleep, until } from "./scene.mjs";

const limit = { timeout: 90000 };
const TTL_MS = 2000;

/** Broadcasts numbers from an instance, one every few milliseconds, until told to stop. */
class Talker {
    sent = []; // {n, online}: false when it cannot have been sent, undefined when nobody knows

    constructor(instance) {
        this.instance = instance;
        this.done = this.#talk();
    }

    async #talk() {
        for (let n = 0; !this.stopped; n++) {
            const before = await this.instance.call("connected");
            const message = { type: this.instance.as, payload: n };
            await this.instance.call("broadcast", { ns: CHAT, message });
            const after = await this.instance.call("connected");
            this.sent.push({ n, online: before === after ? before : undefined });
            await sleep(3);
        }
    }

    async stop() {
        this.stopped = true;
        await this.done;
    }
}

/** Numbers in order, none twice. */
const ascending = (numbers) =>
    assert.ok(
        numbers.every((n, i) => i === 0 || n > numbers[i - 1]),
        `out of order: ${numbers.filter((n, i) => n <= numbers[i - 1])}`,
    );

describe("instances and their server", { concurrency: 4 }, () => {
    for (const pair of PAIRS)
        describe(pair.name, { skip: pair.skip, concurrency: 6 }, () => {
            const foreign = pair.kinds.includes("npm");

            test("the server killed and restarted under load", limit, () =>
                stage(async (s) => {
                    // Instances of znlrun do not wait for heartbeats after a reconnect: those come too late here.
                    const ttl_ms = foreign ? 4000 : 120000;
                    const [a, b] = await Promise.all(
                        pair.kinds.map((kind, i) =>
                            s.instance(kind, { as: `i${i}`, ttl_ms, ping_ms: 1000 }),
                        ),
                    );
                    const ann = await a.joined("ann s1");
                    const bob = await b.joined("bob s2");
                    const gone = await a.joined("eve s3");
                    for (const instance of [a, b]) await instance.sees(["s1", "s2", "s3"]);
                    const talkers = [new Talker(a), new Talker(b)];
                    await ann.got("i1", 20);
                    await bob.got("i0", 20);
                    await s.nats.kill();
                    for (const instance of [a, b])
                        await until(
                            "the loss to be noticed",
                            async () => !(await instance.call("connected")),
                        );
                    // Local life goes on.
                    const local = ann.of("i0").length;
                    await ann.got("i0", local + 20);
                    await gone.close();
                    await a.joined("new s4");
                    await a.sees(["s1", "s2", "s4"]);
                    await b.sees(["s1", "s2", "s3"]);
                    // Until here nothing can have reached the server.
                    for (const talker of talkers) talker.offline = talker.sent.length;
                    await s.nats.restart();
                    for (const instance of [a, b])
                        await until("the reconnect", () => instance.call("connected"));
                    for (const instance of [a, b])
                        await instance.sees(["s1", "s2", "s4"], { ms: 30000 });
                    const [fromB, fromA] = [ann.of("i1").length, bob.of("i0").length];
                    await ann.got("i1", fromB + 20);
                    await bob.got("i0", fromA + 20);
                    for (const talker of talkers) await talker.stop();
                    for (const [client, talker] of [
                        [ann, talkers[1]],
                        [bob, talkers[0]],
                    ]) {
                        const heard = client.of(talker.instance.as);
                        ascending(heard);
                        // What was said meanwhile is lost, it does not come later.
                        const offline = talker.sent.slice(0, talker.offline);
                        const lost = offline
                            .filter(({ online }) => online === false)
                            .map(({ n }) => n);
                        assert.ok(lost.length > 0);
                        assert.deepEqual(
                            heard.filter((n) => lost.includes(n)),
                            [],
                        );
                    }
                    // Everyone hears their own instance without a gap.
                    for (const [client, talker] of [
                        [ann, talkers[0]],
                        [bob, talkers[1]],
                    ]) {
                        await client.got(talker.instance.as, talker.sent.length);
                        assert.deepEqual(
                            client.of(talker.instance.as),
                            talker.sent.map(({ n }) => n),
                        );
                    }
                }),
            );

            test("an instance is killed: its members go, the others stay", limit, () =>
                stage(async (s) => {
                    const kinds = [...pair.kinds, pair.kinds[0]];
                    const [a, b, c] = await Promise.all(
                        kinds.map((kind, i) => s.instance(kind, { as: `i${i}`, ttl_ms: TTL_MS })),
                    );
                    await a.joined("ann s1");
                    const bob = await b.joined("bob s2");
                    for (let i = 0; i < 20; i++) await c.joined(`c${i} c${i}`);
                    const all = ["s1", "s2", ...Array.from({ length: 20 }, (_, i) => `c${i}`)];
                    for (const instance of [a, b, c]) await instance.sees(all);
                    const talker = new Talker(a);
                    await c.peer.kill();
                    for (const instance of [a, b]) await instance.sees(["s1", "s2"]);
                    await talker.stop();
                    const count = talker.sent.length;
                    await bob.got("i0", count);
                    assert.deepEqual(
                        bob.of("i0"),
                        talker.sent.map(({ n }) => n),
                    );
                    // The place is free for another with the same sessions.
                    const d = await s.instance(kinds[2], { as: "again", ttl_ms: TTL_MS });
                    await d.joined("c0 c0");
                    for (const instance of [a, b, d]) await instance.sees(["s1", "s2", "c0"]);
                }),
            );

            test("an instance stalls for longer than the members live", limit, () =>
                stage(async (s) => {
                    const [a, b] = await Promise.all(
                        pair.kinds.map((kind, i) =>
                            s.instance(kind, { as: `i${i}`, ttl_ms: TTL_MS }),
                        ),
                    );
                    const ann = await a.joined("ann s1");
                    await b.joined("bob s2");
                    for (const instance of [a, b]) await instance.sees(["s1", "s2"]);
                    a.peer.process.kill("SIGSTOP");
                    await b.sees(["s2"]);
                    await b.joined("cid s3");
                    a.peer.process.kill("SIGCONT");
                    for (const instance of [a, b]) await instance.sees(["s1", "s2", "s3"]);
                    assert.deepEqual(
                        (await ann.list()).map(({ sessionId }) => sessionId),
                        ["s1", "s2", "s3"],
                    );
                }),
            );
        });
});

// --- the network between an instance and the server is cut ------------------------------------

const ip = (...args) => execFileSync("ip", args, { stdio: ["ignore", "ignore", "pipe"] });
let networks = 0;

/** A network of its own for one process: NATS over one line, WebSocket clients over another. */
class Network {
    constructor() {
        const n = networks++;
        this.name = `znl-${process.pid}-${n}`;
        // Link-local addresses, which no machine has by chance.
        const subnet = 16 + ((process.pid * 7 + n) % 200);
        this.lines = ["n", "w"].map((kind, i) => ({
            outer: `z${kind}${process.pid}x${n}`,
            inner: `y${kind}${process.pid}x${n}`,
            here: `169.254.${subnet}.${4 * i + 1}`,
            there: `169.254.${subnet}.${4 * i + 2}`,
        }));
        ip("netns", "add", this.name);
        ip("-n", this.name, "link", "set", "lo", "up");
        for (const { outer, inner, here, there } of this.lines) {
            ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", this.name);
            ip("addr", "add", `${here}/30`, "dev", outer);
            ip("link", "set", outer, "up");
            ip("-n", this.name, "addr", "add", `${there}/30`, "dev", inner);
            ip("-n", this.name, "link", "set", inner, "up");
        }
        [this.nats, this.clients] = this.lines;
    }

    cut() {
        ip("link", "set", this.nats.outer, "down");
    }

    heal() {
        ip("link", "set", this.nats.outer, "up");
    }

    remove() {
        for (const { outer } of this.lines) ip("link", "del", outer);
        ip("netns", "del", this.name);
    }
}

describe("the network is cut and heals", { concurrency: 4 }, () => {
    test("this machine lets tests make networks", () => {
        let problem;
        try {
            new Network().remove();
        } catch (error) {
            problem = String(error.stderr ?? error.message);
        }
        assert.equal(problem, undefined, "these tests need root and ip (apt-get install iproute2)");
    });

    for (const pair of PAIRS)
        test(pair.name, { skip: pair.skip, ...limit }, async () => {
            const network = new Network();
            try {
                await stage(
                    async (s) => {
                        const ttl_ms = 3000;
                        const fast = { ttl_ms, ping_ms: 500 };
                        const a = await s.instance(pair.kinds[0], {
                            as: "a",
                            network: network.name,
                            host: network.clients.there,
                            ...fast,
                        });
                        const b = await s.instance(pair.kinds[1], {
                            as: "b",
                            host: network.nats.here,
                            ...fast,
                        });
                        const ann = await a.joined("ann s1");
                        const bob = await b.joined("bob s2");
                        const eve = await a.joined("eve s3");
                        for (const instance of [a, b]) await instance.sees(["s1", "s2", "s3"]);
                        ann.send("say", { text: "before" });
                        await bob.got("said");
                        network.cut();
                        // Nobody is told: only time shows it.
                        ann.send("say", { text: "alone" });
                        await ann.got("said", 2);
                        await eve.close();
                        await b.sees(["s2"], { ms: 30000 });
                        await a.sees(["s1"], { ms: 30000 });
                        await b.joined("cid s4");
                        await until(
                            "the loss to be noticed",
                            async () => !(await a.call("connected")),
                            30000,
                        );
                        network.heal();
                        for (const instance of [a, b])
                            await instance.sees(["s1", "s2", "s4"], { ms: 30000 });
                        bob.send("say", { text: "after" });
                        await until("the word after", () =>
                            ann.of("said").some(({ text }) => text === "after"),
                        );
                        ann.send("say", { text: "after too" });
                        await until("the answer", () =>
                            bob.of("said").some(({ text }) => text === "after too"),
                        );
                    },
                    { nats: { host: network.nats.here } },
                );
            } finally {
                network.remove();
            }
        });
});

// --- many members ------------------------------------------------------------------------------

describe("thousands of members", { concurrency: 2 }, () => {
    // An original publishes its list in one message: with ten thousand it is too large for the server.
    const COUNTS = { npm: 5000, lua: 10000 };

    for (const { kind, skip } of KINDS)
        test(`${kind} has them, a new instance of either kind sees all`, { skip, ...limit }, () =>
            stage(async (s) => {
                const ttl_ms = 10000;
                const count = COUNTS[kind];
                const a = await s.instance(kind, { as: "crowd", ttl_ms });
                await a.call("crowd", { ns: CHAT, count });
                const fresh = [];
                for (const other of KINDS.filter((each) => !each.skip)) {
                    const b = await s.instance(other.kind, { as: `new-${other.kind}`, ttl_ms });
                    await b.counts(count);
                    assert.equal((await b.roster()).length, count);
                    fresh.push(b);
                }
                // And they stay: heartbeats renew them all, in one message or in many.
                const tap = await s.tap(`mega.ws.${s.app}.roster`);
                const original = { o: "original", op: "sync_request" };
                await tap.publish(`mega.ws.${s.app}.roster`, original);
                const beaten = new Set();
                await until(
                    "a whole list",
                    () => {
                        for (const { json } of tap.messages)
                            if (json.op === "heartbeat")
                                for (const { sessionId } of json.members) beaten.add(sessionId);
                        tap.forget();
                        return beaten.size >= count;
                    },
                    PATIENCE_MS,
                );
                for (const b of fresh) await b.counts(count);
                await a.call("stop");
                for (const b of fresh) await b.counts(0);
            }),
        );

    test("both kinds have them, all see all", { skip: NO_LUA || PAIRS[0].skip, ...limit }, () =>
        stage(async (s) => {
            const ttl_ms = 10000;
            const holders = [];
            for (const kind of ["npm", "lua"]) {
                const a = await s.instance(kind, { as: `crowd-${kind}`, ttl_ms });
                await a.call("crowd", { ns: CHAT, count: COUNTS[kind] });
                holders.push(a);
            }
            const total = COUNTS.npm + COUNTS.lua;
            for (const kind of ["npm", "lua"]) {
                const b = await s.instance(kind, { as: `new-${kind}`, ttl_ms });
                await b.counts(total);
                holders.push(b);
            }
            for (const each of holders) await each.counts(total);
        }),
    );
});

// --- what instances of znlrun say about themselves ----------------------------------------------

test("a roster that may lack members says so", { skip: NO_LUA, ...limit }, () =>
    stage(async (s) => {
        const a = await s.instance("lua", { as: "a", ttl_ms: TTL_MS });
        const b = await s.instance("lua", { as: "b", ttl_ms: TTL_MS });
        await a.joined("ann s1");
        await b.joined("bob s2");
        for (const instance of [a, b]) {
            await instance.sees(["s1", "s2"]);
            assert.equal(await instance.call("partial"), false);
        }
        await s.nats.kill();
        for (const [instance, own] of [
            [a, "s1"],
            [b, "s2"],
        ]) {
            await instance.sees([own]);
            await until("the roster to be partial", () => instance.call("partial"));
        }
        await s.nats.restart();
        for (const instance of [a, b]) {
            await instance.sees(["s1", "s2"]);
            await until("the roster to be whole", async () => !(await instance.call("partial")));
        }
    }),
);
