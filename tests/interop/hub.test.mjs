// hub.test.mjs - instances of ws-cluster, foreign ones and those of znlrun, in all pairs on a real
// nats-server, looked at from outside with WebSocket clients. The foreign one with itself is the
// control.
//
//   ZNLRUN     the binary; default ../../build/znlrun. Without it the pairs with lua are skipped.
//   ZNL_HUB    only these: "npm,lua"
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { CHAT, freshApp, HubPeer, idsOf, KINDS, limit, NEWS, PAIRS, Tap } from "./hub_peers.mjs";
import { startNats } from "./nats_server.mjs";
import { until } from "./scene.mjs";

let nats;
before(async () => {
    nats = await startNats();
});
after(() => nats.remove());

/** Two processes, and tests with an instance in each. */
function between(kinds, body) {
    const peers = [];
    let number = 0;
    before(() => {
        for (const kind of kinds) peers.push(new HubPeer(kind));
    });
    after(async () => {
        for (const peer of peers) await peer.end();
    });
    /** Instances of one application, one per process; `config` is theirs. */
    const on = (title, config, run) =>
        test(title, limit, async () => {
            const app = freshApp();
            const made = [];
            const start = (peer, more) => {
                const instance = peer.instance(`i${++number}`);
                made.push(instance);
                return instance.start({ app, bus: nats.url, ...config, ...more });
            };
            const tap = await new Tap().open(nats.url, `*.*.${app}.>`);
            try {
                const instances = [];
                for (const peer of peers) instances.push(await start(peer));
                await run({ instances, peers, start, tap, app });
            } finally {
                await tap.close();
                await Promise.all(made.map((instance) => instance.end()));
            }
        });
    body(on);
}

/** A message that comes after all that was published before: then nothing else can come. */
async function settle(instances, clients) {
    for (const instance of instances) {
        const mark = `settle ${instance.as} ${Math.random()}`;
        for (const ns of [CHAT, NEWS])
            await instance.call("broadcast", { ns, message: { type: "settle", payload: mark } });
        for (const client of clients)
            await until("everyone to hear a mark", () => client.of("settle").includes(mark));
    }
    // What follows a broadcast on another subject has an order of its own.
    for (const instance of instances) {
        const mark = `settle ${instance.as} ${Math.random()}`;
        const users = new Set(clients.map(({ user }) => user).filter(Boolean));
        for (const user_id of users)
            await instance.call("direct", { user_id, message: { type: "settle", payload: mark } });
        for (const client of clients.filter(({ user }) => user))
            await until("everyone to hear a mark", () => client.of("settle").includes(mark));
    }
}

const joined = async (instance, who, more) => {
    const client = await instance.joined(who, more);
    client.user = who.split(" ")[0];
    return client;
};

describe("pairs", { concurrency: 4 }, () => {
    for (const pair of PAIRS)
        describe(pair.name, { skip: pair.skip, concurrency: 6 }, () =>
            between(pair.kinds, (on) => {
                on("members of both are in both rosters", {}, async ({ instances: [a, b] }) => {
                    const ann = await joined(a, "ann s1", { metadata: { nick: "Ann", level: 3 } });
                    await joined(b, "bob s2");
                    await joined(a, "ann s3", { ns: NEWS });
                    const nick = '한글 😀 " \\ \u0001 \u2028';
                    const kim = await joined(b, "사용자 s4", { metadata: { nick } });
                    await joined(b, "bob s5", { metadata: {} });
                    const wanted = [
                        { sessionId: "s1", userId: "ann", metadata: { nick: "Ann", level: 3 } },
                        { sessionId: "s2", userId: "bob" },
                        { sessionId: "s4", userId: "사용자", metadata: { nick } },
                        { sessionId: "s5", userId: "bob", metadata: {} },
                    ];
                    for (const instance of [a, b]) {
                        assert.deepEqual(await instance.sees(["s1", "s2", "s4", "s5"]), wanted);
                        const news = await instance.sees(["s3"], { ns: NEWS });
                        assert.deepEqual(news, [{ sessionId: "s3", userId: "ann" }]);
                        await instance.sees([], { ns: "/ws/none" });
                    }
                    assert.deepEqual(await ann.list(), wanted);
                    assert.deepEqual(await kim.list(), wanted);
                });

                on("a second join is an update", {}, async ({ instances: [a, b] }) => {
                    const metadata = {
                        nick: "Ann",
                        deep: { list: [1, "two", null, true, -1.5e3] },
                    };
                    const ann = await joined(a, "ann s1", { metadata });
                    assert.deepEqual((await b.sees(["s1"]))[0].metadata, metadata);
                    for (const next of [{ nick: "Ann2" }, undefined, { again: [] }]) {
                        await ann.join("ann", "s1", { metadata: next });
                        for (const instance of [a, b])
                            await until("the new metadata", async () => {
                                const [member] = await instance.roster();
                                return JSON.stringify(member?.metadata) === JSON.stringify(next);
                            });
                    }
                });

                on("a disconnect takes a member away", {}, async ({ instances: [a, b] }) => {
                    const ann = await joined(a, "ann s1");
                    const bob = await joined(b, "bob s2");
                    for (const instance of [a, b]) await instance.sees(["s1", "s2"]);
                    await ann.close();
                    for (const instance of [a, b]) await instance.sees(["s2"]);
                    await bob.close();
                    for (const instance of [a, b]) await instance.sees([]);
                });

                on("broadcasts: namespace, channel, except", {}, async ({ instances: [a, b] }) => {
                    const clients = {
                        wa1: await joined(a, "ann wa1", { channels: ["room1"] }),
                        wb1: await joined(b, "bob wb1", { channels: ["room1", "room2"] }),
                        wb2: await joined(b, "cid wb2"),
                        wb3: await joined(b, "bob wb3", { ns: NEWS, channels: ["room1"] }),
                        // Connected, not joined: gets what names no channel.
                        none: await a.client(),
                    };
                    const every = Object.values(clients);
                    for (const instance of [a, b]) await instance.sees(["wa1", "wb1", "wb2"]);
                    const says = async (who, payload, wanted) => {
                        clients[who].send("say", payload);
                        for (const name of wanted)
                            await until(`${payload.text} at ${name}`, () =>
                                clients[name].of("said").some(({ text }) => text === payload.text),
                            );
                        await settle([a, b], every);
                        const from = { wa1: "ann", wb1: "bob", wb2: "cid", wb3: "bob" }[who];
                        for (const [name, client] of Object.entries(clients)) {
                            const heard = client
                                .of("said")
                                .filter(({ text }) => text === payload.text);
                            const one = { from, text: payload.text };
                            assert.deepEqual(heard, wanted.includes(name) ? [one] : [], name);
                        }
                    };
                    const all = ["wa1", "wb1", "wb2", "none"];
                    await says("wa1", { text: 'hi 한글 \u0000 " \\' }, all);
                    await says("wb2", { text: "from b" }, all);
                    await says("wa1", { text: "room1", channel: "room1" }, ["wa1", "wb1"]);
                    await says("wb2", { text: "from outside", channel: "room1" }, ["wa1", "wb1"]);
                    await says("wa1", { text: "room2", channel: "room2" }, ["wb1"]);
                    await says("wa1", { text: "nobody", channel: "room" }, []);
                    await says("wa1", { text: "not me", notMe: true }, ["wb1", "wb2", "none"]);
                    await says("wb1", { text: "nor me", notMe: true, channel: "room1" }, ["wa1"]);
                    await says("wb3", { text: "news" }, ["wb3"]);
                });

                on("direct reaches every session of a user", {}, async ({ instances: [a, b] }) => {
                    const clients = {
                        wa1: await joined(a, "ann wa1"),
                        wa2: await joined(a, "bob wa2", { ns: NEWS }),
                        wb1: await joined(b, "bob wb1"),
                        wb2: await joined(b, "cid wb2"),
                        wb3: await joined(b, "bob wb3", { ns: NEWS }),
                    };
                    const tells = async (who, to, text, wanted) => {
                        clients[who].send("dm", { to, text });
                        for (const name of wanted) await clients[name].got("dm");
                        await settle([a, b], Object.values(clients));
                        for (const [name, client] of Object.entries(clients)) {
                            const heard = client.of("dm").map((dm) => dm.text);
                            assert.deepEqual(heard, wanted.includes(name) ? [text] : [], name);
                            client.messages.length = 0;
                        }
                    };
                    await tells("wa1", "bob", "psst", ["wa2", "wb1", "wb3"]);
                    await tells("wb2", "bob", "and back", ["wa2", "wb1", "wb3"]);
                    await tells("wa1", "ann", "self", ["wa1"]);
                    await tells("wb1", "ann", "you", ["wa1"]);
                    await tells("wb1", "nobody", "anyone?", []);
                });

                on(
                    "a thousand broadcasts each way, in order",
                    {},
                    async ({ instances: [a, b] }) => {
                        const COUNT = 1000;
                        const ann = await joined(a, "ann s1");
                        const bob = await joined(b, "bob s2");
                        await Promise.all([
                            a.call("burst", { ns: CHAT, count: COUNT }),
                            b.call("burst", { ns: CHAT, count: COUNT, from: COUNT }),
                        ]);
                        for (const client of [ann, bob]) {
                            const heard = await client.got("n", 2 * COUNT);
                            await settle([a, b], [ann, bob]);
                            assert.equal(client.of("n").length, 2 * COUNT);
                            const [low, high] = [
                                heard.filter((n) => n < COUNT),
                                heard.filter((n) => n >= COUNT),
                            ];
                            assert.deepEqual(
                                low,
                                Array.from({ length: COUNT }, (_, i) => i),
                            );
                            assert.deepEqual(
                                high,
                                Array.from({ length: COUNT }, (_, i) => COUNT + i),
                            );
                        }
                    },
                );

                on("payloads of every kind", {}, async ({ instances: [a, b] }) => {
                    const ann = await joined(a, "ann s1");
                    const bob = await joined(b, "bob s2");
                    let deep = 1;
                    for (let i = 0; i < 20; i++) deep = [deep];
                    const payloads = [
                        null,
                        true,
                        0,
                        -1.5,
                        1e21,
                        9007199254740991,
                        "",
                        "\u0000\u007f\u2028😀",
                        [],
                        {},
                        [[], {}, [{ "": "" }]],
                        { type: "x", payload: "y", o: "z", ns: "/" },
                        { 'key " \\ \u0001': 1 },
                        deep,
                    ];
                    const long = "x".repeat(100000);
                    const wire = (value) => JSON.parse(JSON.stringify(value));
                    for (const [from, to] of [
                        [a, bob],
                        [b, ann],
                    ]) {
                        const type = `from ${from.as}`;
                        const says = (message) => from.call("broadcast", { ns: CHAT, message });
                        for (const payload of payloads) await says({ type, payload });
                        assert.deepEqual(wire(await to.got(type, payloads.length)), wire(payloads));
                        await says({ type: `${type}, long`, payload: long });
                        assert.ok((await to.got(`${type}, long`))[0] === long);
                        await says({ type: `${type}, bare` });
                        await to.got(`${type}, bare`);
                        assert.deepEqual(to.messages.at(-1), { type: `${type}, bare` });
                    }
                });

                on("one session on both: the last join holds it", { ttl_ms: 4000 }, async (s) => {
                    const { instances, tap, app } = s;
                    const [a, b] = instances;
                    const first = await joined(a, "dup s1", { metadata: { at: "a" } });
                    await b.sees(["s1"]);
                    const second = await joined(b, "dup s1", { metadata: { at: "b" } });
                    for (const instance of [a, b])
                        await until("the entry of the second", async () => {
                            const members = await instance.roster();
                            return members.length === 1 && members[0].metadata.at === "b";
                        });
                    const roster = `mega.ws.${app}.roster`;
                    const [held] = tap.of(roster, ({ json }) => json.member?.metadata.at === "b");
                    await first.close();
                    const isSaidAgain = ({ json, at }) =>
                        at > held.at &&
                        json.o === held.json.o &&
                        [json.member, ...(json.members ?? [])].some((m) => m?.sessionId === "s1");
                    // From an original that deletes the entry until the holder's next heartbeat; znlrun says at
                    // once that it has it. Instances of znlrun say nothing when it is no longer theirs.
                    if (a.kind === "npm") await tap.got(roster, isSaidAgain);
                    for (const instance of [a, b]) await instance.sees(["s1"]);
                    await second.close();
                    for (const instance of [a, b]) await instance.sees([]);
                });

                on(
                    "driver none: heard, not seen",
                    {},
                    async ({ instances: [a, b], peers, start, tap, app }) => {
                        const quiet = await start(peers[0], { driver: "none" });
                        const other = await start(peers[1], { driver: "none" });
                        const hidden = await joined(quiet, "ann q1");
                        const bob = await joined(b, "bob s2");
                        await joined(other, "cid q2");
                        hidden.send("say", { text: "hi" });
                        await bob.got("said");
                        bob.send("say", { text: "hi back" });
                        await hidden.got("said", 2);
                        bob.send("dm", { to: "ann", text: "psst" });
                        await hidden.got("dm");
                        await settle([a, b], [bob]);
                        for (const instance of [a, b]) await instance.sees(["s2"]);
                        await quiet.sees(["q1"]);
                        await other.sees(["q2"]);
                        assert.deepEqual(await hidden.list(), [{ sessionId: "q1", userId: "ann" }]);
                        const about = tap.of(`mega.ws.${app}.roster`, ({ text }) =>
                            /q1|q2/.test(text),
                        );
                        assert.deepEqual(about, []);
                    },
                );

                on("another prefix and another name are another cluster", {}, async (s) => {
                    const { instances, peers, start, app, tap } = s;
                    const [a, b] = instances;
                    const acme = [
                        await start(peers[0], { prefix: "acme.rt" }),
                        await start(peers[1], { prefix: "acme.rt" }),
                    ];
                    const named = `${app}-2`;
                    const others = [
                        await start(peers[0], { app: named }),
                        await start(peers[1], { app: named }),
                    ];
                    const worlds = [instances, acme, others];
                    const clients = [];
                    for (const [i, [one, other]] of worlds.entries())
                        clients.push([
                            await joined(one, `ann one${i}`),
                            await joined(other, `ann other${i}`),
                        ]);
                    for (const [i, world] of worlds.entries())
                        for (const instance of world) await instance.sees([`one${i}`, `other${i}`]);
                    for (const [i, [one, other]] of clients.entries()) {
                        one.send("say", { text: `world ${i}` });
                        await other.got("said");
                        one.send("dm", { to: "ann", text: `world ${i}` });
                        await other.got("dm");
                    }
                    await settle(instances, clients[0]);
                    await settle(acme, clients[1]);
                    await settle(others, clients[2]);
                    for (const [i, both] of clients.entries())
                        for (const client of both)
                            for (const type of ["said", "dm"])
                                assert.deepEqual(
                                    client.of(type).map(({ text }) => text),
                                    [`world ${i}`],
                                );
                    for (const subject of ["bcast", "direct", "roster"])
                        assert.ok(tap.of(`acme.rt.${app}.${subject}`).length > 0, subject);
                    assert.notEqual(a.port, b.port);
                });

                on(
                    "a third instance knows all at once, one that stops is gone at once",
                    {},
                    async (s) => {
                        const { instances, peers, start, tap, app } = s;
                        const [a, b] = instances;
                        await joined(a, "ann s1", { metadata: { n: 1 } });
                        await joined(b, "bob s2");
                        for (const peer of peers) {
                            const late = await start(peer);
                            // One round trip: not the heartbeats, which come after fifteen seconds.
                            const members = await late.sees(["s1", "s2"]);
                            assert.deepEqual(members[0].metadata, { n: 1 });
                            const ids = ["l1", "l2"].map((id) => `${late.as}-${id}`);
                            for (const id of ids) await joined(late, `late ${id}`);
                            for (const instance of [a, b])
                                await instance.sees(["s1", "s2", ...ids]);
                            tap.forget();
                            await late.call("stop");
                            for (const instance of [a, b]) await instance.sees(["s1", "s2"]);
                            const removed = tap
                                .of(`mega.ws.${app}.roster`, ({ json }) => json.op === "remove")
                                .map(({ json }) => json.sessionId);
                            assert.deepEqual(removed, ids);
                        }
                    },
                );
            }),
        );
});

// --- one implementation alone ----------------------------------------------------------------

for (const { kind, skip } of KINDS)
    describe(`${kind} alone`, { skip, concurrency: 6 }, () =>
        between([kind], (on) => {
            on(
                "the subjects, the order at the start, the heartbeats",
                { ttl_ms: 2000 },
                async (s) => {
                    const { instances, tap, app } = s;
                    const [a] = instances;
                    const roster = `mega.ws.${app}.roster`;
                    await tap.got(roster, ({ json }) => json.op === "heartbeat");
                    const [sync, first] = tap.of(roster);
                    assert.equal(sync.json.op, "sync_request");
                    assert.equal(typeof sync.json.o, "string");
                    assert.ok(sync.json.o.length >= 8);
                    assert.equal(first.json.op, "heartbeat");
                    assert.deepEqual(first.json.members, []);
                    assert.equal(first.json.o, sync.json.o);
                    await joined(a, "ann s1");
                    const beats = () => tap.of(roster, ({ json }) => json.op === "heartbeat");
                    await until(
                        "three heartbeats with the member",
                        () => beats().filter(({ json }) => json.members.length === 1)[2],
                    );
                    // Never later than the interval, which is a second here; a busy machine may be.
                    const times = beats().map(({ at }) => at);
                    assert.ok(times.at(-1) - times[0] >= 500, `${times}`);
                    for (const { json } of beats()
                        .slice(1)
                        .filter((m) => m.json.members.length))
                        assert.deepEqual(json.members, [
                            { ns: CHAT, sessionId: "s1", userId: "ann" },
                        ]);
                },
            );

            on(
                "own messages that come back are dropped",
                {},
                async ({ instances: [a], tap, app }) => {
                    const client = await joined(a, "ann s1");
                    client.send("say", { text: "hi" });
                    client.send("dm", { to: "ann", text: "hi" });
                    const said = await tap.got(`mega.ws.${app}.bcast`);
                    const told = await tap.got(`mega.ws.${app}.direct`);
                    for (const { subject, text } of [said, told]) await tap.publish(subject, text);
                    for (const op of ["remove", "add"])
                        await tap.publish(`mega.ws.${app}.roster`, {
                            o: said.json.o,
                            op,
                            sessionId: "s1",
                            member: { ns: CHAT, sessionId: "echo", userId: "e" },
                        });
                    // From nobody: not an echo.
                    const { o: _, ...anonymous } = said.json;
                    await tap.publish(said.subject, anonymous);
                    await client.got("said", 2);
                    const { o: __, ...direct } = told.json;
                    await tap.publish(told.subject, direct);
                    await client.got("dm", 2);
                    await settle([a], [client]);
                    assert.equal(client.of("said").length, 2);
                    assert.equal(client.of("dm").length, 2);
                    await a.sees(["s1"]);
                },
            );

            on("a foreign sync_request is answered", {}, async ({ instances: [a], tap, app }) => {
                await joined(a, "ann s1");
                await joined(a, "bob s2", { ns: NEWS });
                tap.forget();
                const roster = `mega.ws.${app}.roster`;
                await tap.publish(roster, { o: "instZ", op: "sync_request" });
                const { json } = await tap.got(
                    roster,
                    (message) => message.json.op === "heartbeat",
                );
                assert.deepEqual(idsOf(json.members), ["s1", "s2"]);
            });
        }),
    );
