// cluster.test.mjs - leaders and followers of cluster-client 3.7.0 and of znlrun in all pairs, each
// implementation in processes of its own. The package with itself is the control.
//
//   ZNLRUN        the binary; default ../../build/znlrun. Without it the pairs with lua are skipped.
//   ZNL_CLUSTER   only these: "npm,lua"
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { ClusterPeer, freePort, PAIRS, vectors } from "./cluster_peers.mjs";
import { RawFollower } from "./cluster_raw.mjs";
import { pack, unpack } from "./cluster_values.mjs";
import { until } from "./scene.mjs";

const limit = { timeout: 120000 };
/** Until an election is over, which pauses for seconds in the package, on a busy machine. */
const PATIENCE_MS = 40000;
const REG = { dataId: "d" };

/** Fields that are undefined are left out by whoever has no such thing. */
function lean(value) {
    if (value === null || typeof value !== "object") return value;
    if (Array.isArray(value)) return value.map(lean);
    const kept = Object.entries(value).filter(([, field]) => field?.$ !== "undefined");
    return Object.fromEntries(kept.map(([name, field]) => [name, lean(field)]));
}

const timedOut = (client, error) =>
    client.kind === "lua"
        ? assert.equal(error.code, "TIMEOUT", error.message)
        : assert.equal(error.errorName, "ResponseTimeoutError", error.message);

function failedWith(error, name, message, code) {
    assert.equal(error.message, message);
    assert.equal(error.errorName, name, message);
    if (code !== undefined) assert.equal(error.code, code, message);
}

const becomesReady = (client, leader) =>
    client.event("ready", (event) => !event.error && event.leader === leader, PATIENCE_MS);
/** Calls come through again. Not an event: a client of the package that meets the end of the old leader twice says
 * that it failed, and works. */
const worksAgain = (client) =>
    until(
        `${client.as} of ${client.kind} to work again`,
        () =>
            client.invoke("ping").then(
                (value) => value === "pong",
                () => false,
            ),
        PATIENCE_MS,
    );

for (const pair of PAIRS)
    describe(pair.name, { skip: pair.skip, concurrency: 6 }, () => {
        let leaders, followers, others;
        let number = 0;

        before(() => {
            leaders = new ClusterPeer(pair.leader);
            followers = new ClusterPeer(pair.follower);
            others = new ClusterPeer(pair.follower);
        });
        after(async () => {
            for (const peer of [leaders, followers, others]) await peer.end();
        });

        /** Clients of one channel that are not started: the leader, a follower, another one. */
        const trio = async (body) => {
            const port = await freePort();
            const as = `c${number++}`;
            const made = [leaders, followers, others].map((peer) => peer.client(as));
            const ends = [...made];
            const [leader, follower, other] = made;
            const more = (peer) => {
                const client = peer.client(`c${number++}`);
                ends.push(client);
                return client;
            };
            try {
                await body({ port, leader, follower, other, more });
            } finally {
                const running = ends.filter(({ peer }) => !peer.exit);
                await Promise.all(running.map((client) => client.call("close").catch(() => {})));
            }
        };

        /** The leader and its follower, ready. */
        const led = (title, config, body, configOfFollower = config) =>
            test(title, limit, () =>
                trio(async (s) => {
                    const { port, leader, follower } = s;
                    assert.deepEqual(await leader.start({ port, ...config }), { leader: true });
                    assert.deepEqual(await follower.start({ port, ...configOfFollower }), {
                        leader: false,
                    });
                    await body(s);
                }),
            );

        // --- calls -------------------------------------------------------------------------------

        led(
            "every method",
            { demo: { values: { known: { a: [1] } } } },
            async ({ leader, follower }) => {
                for (const client of [follower, leader]) {
                    const comes = async (method, args, wanted) =>
                        assert.deepEqual(await client.invoke(method, ...args), wanted, method);
                    await comes("ping", [], "pong");
                    await comes("echoOne", ["x"], "x");
                    await comes(
                        "echo",
                        [1, "two", null, undefined, [3]],
                        [1, "two", null, undefined, [3]],
                    );
                    await comes("nothing", [], undefined);
                    await comes("nul", [], null);
                    await comes("slow", [30], "slept 30");
                    await comes("get", ["known"], { a: [1] });
                    await comes("withCallback", [20, 22], 42);
                    // The package appends its callback.
                    await comes("argc", [1, 2], pair.leader === "npm" ? 3 : 2);
                    await comes("flood", ["nobody", 10, 5, 1], 10);
                }
                await follower.oneway("note", "remember");
                await leader.oneway("note", "remember");
                await until(
                    "both notes",
                    async () => (await leader.invoke("getCounters")).oneway === 2,
                );
            },
        );

        led("values of every kind, there and back", {}, async ({ follower }) => {
            const { cases } = vectors("transcode");
            // Errors of JavaScript cannot be without a stack.
            const kept = cases.filter(
                (c) => c.same_after_roundtrip && !/__proto__|without stack/.test(c.case),
            );
            for (const { case: title, value, decoded } of kept)
                assert.deepEqual(
                    lean(pack(await follower.invoke("echoOne", unpack(value)))),
                    lean(decoded),
                    title,
                );
            assert.equal(kept.length, 62);
            const many = kept.map(({ value }) => unpack(value));
            const back = await follower.invoke("echo", ...many);
            assert.deepEqual(
                lean(pack(back)),
                kept.map(({ decoded }) => lean(decoded)),
            );
            const large = Buffer.alloc(64 * 1024, "buffer of some size ");
            assert.deepEqual(await follower.invoke("echoOne", large), large);
        });

        led("errors", { response_timeout_ms: 1000 }, async ({ follower }) => {
            failedWith(
                await follower.fails("get", "nope"),
                "NotFoundError",
                "no such id: nope",
                "E_NOT_FOUND",
            );
            failedWith(await follower.fails("fail", "plain"), "Error", "plain failure");
            failedWith(await follower.fails("fail", "type"), "TypeError", "type failure");
            failedWith(
                await follower.fails("fail", "coded"),
                "CodedError",
                "coded failure",
                "E_CODED",
            );
            failedWith(await follower.fails("fail", "numcode"), "Error", "numeric code", 404);
            failedWith(
                await follower.fails("withCallbackErr", "x"),
                "Error",
                "cb failure x",
                "E_CB",
            );
            const thrown = await follower.fails("fail", "string");
            if (pair.leader === "npm") timedOut(follower, thrown);
            else failedWith(thrown, "Error", "just a string");
            assert.equal(await follower.invoke("ping"), "pong");
        });

        led("timeouts", { response_timeout_ms: 300 }, async ({ follower }) => {
            timedOut(follower, await follower.fails("slow", 1500));
            timedOut(follower, await follower.fails("never"));
            assert.equal(await follower.invoke("slow", 10), "slept 10");
        });

        led("calls answered out of order", {}, async ({ follower }) => {
            const delays = [200, 10, 120, 60];
            const done = [];
            await Promise.all(
                delays.map(async (ms) => {
                    assert.equal(await follower.invoke("slow", ms), `slept ${ms}`);
                    done.push(ms);
                }),
            );
            assert.equal(done.at(-1), 200);
        });

        led("many calls at once", {}, async ({ follower }) => {
            const given = { method: "echoOne", arg: { list: [1, 2.5, "three"], at: null } };
            const { ok, failed } = await follower.call("invoke_many", {
                ...given,
                count: 3000,
                at_once: 300,
            });
            assert.deepEqual({ ok, failed }, { ok: 3000, failed: {} });
        });

        // --- subscriptions -----------------------------------------------------------------------

        led("subscribe, publish, replay, unsubscribe", {}, async (s) => {
            const { leader, follower, other, port } = s;
            await other.start({ port });
            const all = [leader, follower, other];
            const subscribed = async () => (await leader.invoke("getCounters")).upstreamSubscribes;
            assert.equal(await subscribed(), 0); // nobody wants anything yet
            for (const client of all) await client.subscribe(REG, "a");
            await until("the real client to be subscribed", subscribed);
            await follower.publish("d", { n: 1 });
            for (const client of all) assert.deepEqual(await client.got("a", 1), [{ n: 1 }]);
            await leader.publish("d", null);
            for (const client of all) assert.deepEqual(await client.got("a", 2), [{ n: 1 }, null]);
            // Who comes later has the last value, once more on the same client too.
            await other.subscribe(REG, "b");
            assert.deepEqual(await other.got("b", 1), [null]);
            const late = s.more(followers);
            await late.start({ port });
            await late.subscribe(REG, "late");
            assert.deepEqual(await late.got("late", 1), [null]);
            assert.equal(await subscribed(), 1);

            await other.unsubscribe(REG, "a");
            await follower.unsubscribe(REG);
            await follower.invoke("ping"); // behind it
            await leader.publish("d", "third");
            assert.deepEqual(await other.got("b", 2), [null, "third"]);
            assert.deepEqual(await leader.got("a", 3), [{ n: 1 }, null, "third"]);
            assert.equal(await follower.invoke("ping"), "pong");
            assert.equal(follower.values("a").length, 2);
            assert.equal(other.values("a").length, 2);
            await follower.subscribe(REG, "again");
            assert.deepEqual(await follower.got("again", 1), ["third"]);
        });

        led("registrations of every kind", {}, async ({ leader, follower }) => {
            const regs = [
                { dataId: "d", group: "g" },
                { group: "g", dataId: "d" },
                { dataId: "d", 10: "ten", 2: [1.0, 1e21, 1e-7, -0], text: 'a"/\u2028é\u0001' },
                { dataId: "d", nested: { b: null, a: [] } },
            ];
            for (const [i, reg] of regs.entries()) await follower.subscribe(reg, `r${i}`);
            await follower.invoke("ping");
            await leader.publish("d", 7);
            for (const i of regs.keys())
                assert.deepEqual(await follower.got(`r${i}`, 1), [7], `${i}`);
        });

        led("values of every kind, pushed", {}, async ({ leader, follower }) => {
            const values = [
                undefined,
                null,
                "",
                "ü|^%",
                Buffer.from("ab"),
                new Date(12),
                [[], {}],
                { x: [undefined] },
            ];
            await follower.subscribe(REG, "a");
            await follower.invoke("ping");
            for (const value of values) await leader.publish("d", value);
            const got = await follower.got("a", values.length);
            // A publication is an object: undefined is a field that is not there.
            assert.deepEqual(pack(got), pack(values));
        });

        led(
            "a flood of values comes whole and in order",
            {},
            async ({ leader, follower, other, port }) => {
                await other.start({ port });
                const COUNT = 3000;
                for (const client of [follower, other]) await client.subscribe(REG, "flood", true);
                await follower.invoke("ping");
                await other.invoke("ping");
                assert.equal(await leader.invoke("flood", "d", COUNT, 50, 100), COUNT);
                for (const client of [follower, other]) {
                    const all = async () => (await client.seen("flood")).last?.seq === COUNT;
                    await until("the last value", all);
                    const { count, ordered } = await client.seen("flood");
                    assert.deepEqual({ count, ordered }, { count: COUNT, ordered: true });
                }
            },
        );

        led("isBroadcast=false: one of them gets a value", { broadcast: false }, async (s) => {
            const { leader, follower, other, port } = s;
            await other.start({ port, broadcast: false });
            for (const client of [follower, other]) {
                await client.subscribe(REG, "a");
                await client.invoke("ping");
            }
            const COUNT = 40;
            for (let i = 0; i < COUNT; i++) await leader.publish("d", i);
            const seen = () => [...follower.values("a"), ...other.values("a")];
            await until("every value", () => seen().length >= COUNT);
            assert.deepEqual(
                seen().toSorted((a, b) => a - b),
                Array.from({ length: COUNT }, (_, i) => i),
            );
        });

        // --- the life of a channel ---------------------------------------------------------------

        test("a leader that is ready later", limit, () =>
            trio(async ({ leader, follower, port }) => {
                const demo = { ready_after_ms: 600 };
                const starting = leader.start({ port, demo });
                await until("the port to be taken", async () => {
                    const probe = new RawFollower(port);
                    const opened = await new Promise((resolve) => {
                        probe.socket.on("connect", () => resolve(true));
                        probe.socket.on("close", () => resolve(false));
                    });
                    probe.destroy();
                    return opened;
                });
                assert.deepEqual(await follower.start({ port }), { leader: false });
                assert.deepEqual(await starting, { leader: true });
                assert.equal(await follower.invoke("ping"), "pong");
            }),
        );

        test("a leader that fails: its followers hear why", limit, () =>
            trio(async ({ leader, more, port }) => {
                const refused = /upstream refused/;
                await assert.rejects(leader.start({ port, demo: { ready_error: true } }), refused);
                // The leader is tried again and again: a connection may end just when it is.
                await until("the follower to hear why", () =>
                    more(followers)
                        .start({ port })
                        .then(assert.fail, ({ message }) => refused.test(message)),
                );
            }),
        );

        led("heartbeats keep a connection that says nothing", { heartbeat_ms: 1000 }, async (s) => {
            const { follower } = s;
            const began = Date.now();
            // Beside a silent one that is cut for its silence.
            const silent = new RawFollower(s.port);
            await silent.register();
            await silent.end(PATIENCE_MS);
            silent.destroy();
            assert.ok(Date.now() - began > 2800, "it was cut too soon");
            assert.equal(await follower.invoke("ping"), "pong");
            assert.deepEqual(follower.all("lost"), []);
        });

        led("a leader that closes: the follower takes over", {}, async ({ leader, follower }) => {
            await follower.subscribe(REG, "a");
            await follower.publish("d", "kept");
            await follower.got("a", 1);
            const pending = follower.fails("slow", 2500);
            await follower.invoke("ping");
            await leader.call("close");
            await becomesReady(follower, true);
            assert.match((await pending).message, /closed|lost/i);
            // Subscriptions and publications came with it.
            assert.deepEqual(await follower.got("a", 2), ["kept", "kept"]);
            assert.equal(await follower.invoke("ping"), "pong");
        });

        led(
            "a follower that closes: the leader goes on",
            {},
            async ({ leader, follower, other, port }) => {
                await follower.subscribe(REG, "a");
                await follower.invoke("ping");
                await follower.call("close");
                await other.start({ port });
                await other.subscribe(REG, "a");
                await other.invoke("ping");
                await leader.publish("d", 1);
                assert.deepEqual(await other.got("a", 1), [1]);
                assert.deepEqual(follower.values("a"), []);
            },
        );

        test("a leader that dies: one follower leads, the other follows it", limit, () =>
            trio(async ({ follower, other, port }) => {
                // Its own process: the other tests go on with theirs.
                const doomed = new ClusterPeer(pair.leader);
                await doomed.client().start({ port });
                const clients = [follower, other];
                for (const client of clients) {
                    await client.start({ port });
                    await client.subscribe(REG, "a");
                }
                await follower.publish("d", "last");
                for (const client of clients) await client.got("a", 1);
                await doomed.kill();
                for (const client of clients) await worksAgain(client);
                const leads = await Promise.all(clients.map((client) => client.call("leads")));
                assert.equal(leads.filter(Boolean).length, 1);
                for (const client of clients) {
                    assert.equal((await client.got("a", 2))[1], "last");
                    assert.equal(await client.invoke("ping"), "pong");
                }
            }),
        );

        test("a channel that the owner of the port does not have, until it has", limit, () =>
            trio(async ({ leader, follower, port, more }) => {
                await leader.start({ port, name: "First" });
                const config = { port, name: "Second", response_timeout_ms: 300 };
                await follower.start({ ...config, wait: false });
                const otherChannel = more(others);
                await otherChannel.start({ port, name: "First" });
                assert.equal(await otherChannel.invoke("ping"), "pong");
                assert.deepEqual(follower.all("ready"), []);
                await more(leaders).start({ port, name: "Second" });
                await becomesReady(follower, false);
                assert.equal(await follower.invoke("ping"), "pong");
            }),
        );

        test("two channels of one port do not mix", limit, () =>
            trio(async ({ leader, follower, port, more }) => {
                const [leader2, follower2] = [more(leaders), more(followers)];
                await leader.start({ port, name: "One", demo: { values: { id: 1 } } });
                assert.deepEqual(
                    await leader2.start({ port, name: "Two", demo: { values: { id: 2 } } }),
                    {
                        leader: true,
                    },
                );
                await follower.start({ port, name: "One" });
                await follower2.start({ port, name: "Two" });
                assert.equal(await follower.invoke("get", "id"), 1);
                assert.equal(await follower2.invoke("get", "id"), 2);
                await follower.subscribe(REG, "a");
                await follower2.subscribe(REG, "a");
                await follower.invoke("ping");
                await follower2.invoke("ping");
                await leader2.publish("d", "two");
                assert.deepEqual(await follower2.got("a", 1), ["two"]);
                assert.equal(await follower.invoke("ping"), "pong");
                assert.deepEqual(follower.values("a"), []);
            }),
        );

        test("a second client of the channel in the leader's process follows it", limit, () =>
            trio(async ({ leader, port, more }) => {
                const second = more(leaders);
                await leader.start({ port });
                assert.deepEqual(await second.start({ port }), { leader: false });
                assert.equal(await second.invoke("echoOne", "x"), "x");
            }),
        );

        // --- roles and forms ---------------------------------------------------------------------

        led(
            "forced roles",
            { leader: true },
            async ({ follower, port, more }) => {
                assert.equal(await follower.invoke("ping"), "pong");
                await assert.rejects(
                    more(others).start({ port, leader: true }),
                    /occupied|in use/i,
                );
            },
            { leader: false },
        );

        test("a forced follower without a leader gives up, and says so", limit, () =>
            trio(async ({ follower, port }) => {
                const doing = follower.start({ port, leader: false, max_wait_ms: 400 });
                await assert.rejects(doing, /leader/);
            }),
        );

        test("a forced follower waits for its leader", limit, () =>
            trio(async ({ leader, follower, port }) => {
                await follower.start({ port, leader: false, wait: false });
                await leader.start({ port });
                await becomesReady(follower, false);
                assert.equal(await follower.invoke("ping"), "pong");
            }),
        );

        led("another transcode: JSON", { transcode: "json" }, async ({ leader, follower }) => {
            const value = { a: [1, 2.5, null, "x y|^"], b: {} };
            assert.deepEqual(await follower.invoke("echoOne", value), value);
            failedWith(
                await follower.fails("fail", "coded"),
                "CodedError",
                "coded failure",
                "E_CODED",
            );
            await follower.subscribe(REG, "a");
            await follower.publish("d", value);
            assert.deepEqual(await follower.got("a", 1), [value]);
            await leader.publish("d", "next");
            assert.deepEqual(await follower.got("a", 2), [value, "next"]);
        });
    });
