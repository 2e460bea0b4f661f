// hub_hostile.test.mjs - hubs of znlrun among bad instances on NATS and bad WebSocket clients:
// messages that are no messages, claims, floods, what is too large or too deep, clients that do not
// read. Everyone else is served meanwhile, and memory stays bounded.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { CHAT, HubPeer, freshApp, MIB, NO_LUA, PATIENCE_MS, stage, Tap } from "./hub_peers.mjs";
import { startNats } from "./nats_server.mjs";
import { until } from "./scene.mjs";

const limit = { timeout: 60000 };
const MAX_PAYLOAD = 256 * 1024;
const nest = (depth, inner = "1") => "[".repeat(depth) + inner + "]".repeat(depth);

describe("hubs among bad instances", { skip: NO_LUA }, () => {
    const app = freshApp();
    const subject = (last) => `mega.ws.${app}.${last}`;
    const LIMITS = { ttl_ms: 60000, max_members: 2000, max_member_bytes: 4096 };
    let nats, peers, a, b, ann, bob, tap;
    let marks = 0;

    before(async () => {
        nats = await startNats({ config: `max_payload: ${MAX_PAYLOAD}\n` });
        peers = [new HubPeer("lua"), new HubPeer("lua")];
        [a, b] = await Promise.all(
            peers.map((peer, i) => peer.instance(`i${i}`).start({ app, bus: nats.url, ...LIMITS })),
        );
        tap = await new Tap().open(nats.url, subject(">"));
        ann = await a.joined("ann s1", { metadata: { nick: "Ann" } });
        bob = await b.joined("bob s2");
        for (const instance of [a, b]) await instance.sees(["s1", "s2"]);
    });
    after(async () => {
        await tap?.close();
        for (const peer of peers ?? []) await peer.end();
        await nats?.remove();
    });

    /** Both are there, hear each other, and see exactly these, of which s1 and s2 are real. */
    const stillServe = async (ids = ["s1", "s2"]) => {
        const text = `still there ${++marks}`;
        ann.send("say", { text });
        bob.send("dm", { to: "ann", text });
        await until("the broadcast", () => bob.of("said").some((said) => said.text === text));
        await until("the direct message", () => ann.of("dm").some((dm) => dm.text === text));
        for (const instance of [a, b]) {
            const members = await instance.sees(ids);
            assert.deepEqual(
                members.filter(({ sessionId }) => ["s1", "s2"].includes(sessionId)),
                [
                    { sessionId: "s1", userId: "ann", metadata: { nick: "Ann" } },
                    { sessionId: "s2", userId: "bob" },
                ],
            );
        }
    };
    /** What was published on the roster subject until now has been read. */
    const isRead = async () => {
        const sessionId = `mark${++marks}`;
        const ns = "/mark";
        await tap.publish(subject("roster"), { o: "marker", op: "add", member: { ns, sessionId } });
        for (const instance of [a, b]) await instance.sees([sessionId], { ns });
        await tap.publish(subject("roster"), { o: "marker", op: "remove", sessionId });
        for (const instance of [a, b]) await instance.sees([], { ns });
    };
    const idOf = async (session) => {
        const said = ({ json }) => json?.op === "add" && json.member?.sessionId === session;
        return (await tap.got(subject("roster"), said)).json.o;
    };

    const member = (more) => ({ ns: CHAT, sessionId: "bad", userId: "u", ...more });
    const add = (more) => JSON.stringify({ o: "bad", op: "add", member: member(more) });
    const beat = (members, more) => ({ o: "bad", op: "heartbeat", members, ...more });

    // None of these says anything.
    const NOTHING = {
        "no bytes": "",
        "no JSON": "{]",
        "half an object": '{"o":"bad","op":"add","member":{"ns":"/ws/chat","sess',
        "two objects": `${add()}${add()}`,
        "bytes that are no UTF-8": Buffer.from(add({ sessionId: "bad\u00ff" }), "latin1"),
        "zero bytes": Buffer.alloc(1000),
        "nested without end": `{"o":"bad","op":"add","x":${nest(100000)},"member":${JSON.stringify(member())}}`,
        "opened and never closed": "[".repeat(200000),
        "an array": "[1]",
        "a text": '"add"',
        "no op": '{"o":"bad"}',
        "an op that is no text":
            '{"o":"bad","op":["add"],"member":{"ns":"/ws/chat","sessionId":"bad"}}',
        "no member": '{"o":"bad","op":"add"}',
        "a member that is null": '{"o":"bad","op":"add","member":null}',
        "a member that is an array": '{"o":"bad","op":"add","member":["/ws/chat","bad"]}',
        "a session that is a number": add({ sessionId: 5 }),
        "a namespace that is an object": add({ ns: {} }),
        "members that are no array":
            '{"o":"bad","op":"heartbeat","members":{"ns":"/ws/chat","sessionId":"bad"}}',
        "members that are nothing": beat([
            null,
            1,
            "x",
            [],
            {},
            { ns: CHAT },
            { sessionId: "bad" },
        ]),
        "a hundred thousand times nothing": `{"o":"bad","op":"heartbeat","members":[${"0,".repeat(100000)}0]}`,
        "a remove of a number": '{"o":"bad","op":"remove","sessionId":1}',
        "a remove of nobody": '{"o":"bad","op":"remove","sessionId":"nobody"}',
        "a remove of everybody": '{"o":"bad","op":"remove","sessionId":"*"}',
        "a session that is too long": add({ sessionId: "s".repeat(200000) }),
        "metadata that is too large": add({ metadata: { x: "m".repeat(200000) } }),
        "marks that cannot be": beat([], { v: -1, gen: 1.5, part: 0, parts: 1e300, n: "x" }),
        "a part past the last": beat([], { v: 2, gen: 1, part: 9007199254740991, parts: 1, n: 1 }),
        "numbers past all": beat([], { v: 2, gen: 9007199254740993, n: 1e400 }),
        "a digest of nothing": '{"o":"bad","op":"digest","v":2,"count":-1,"hash":5}',
        "an op of ours with the wrong fields": '{"o":"bad","op":"ask","v":2,"to":[]}',
    };
    test("messages that say nothing", limit, async () => {
        for (const [title, text] of Object.entries(NOTHING)) {
            await tap.publish(subject("roster"), text);
            await isRead().catch((error) => {
                error.message = `${title}: ${error.message}`;
                throw error;
            });
            assert.deepEqual(await a.roster(), await b.roster(), title);
        }
        await stillServe();
    });

    test("members with strange names are members", limit, async () => {
        const ids = ["", "\u0000", " ", "__proto__", "a\nb", "😀", '\\"', "s1 "];
        for (const sessionId of ids)
            await tap.publish(subject("roster"), {
                o: "odd",
                op: "add",
                member: member({ sessionId }),
            });
        for (const instance of [a, b]) await instance.sees([...ids, "s1", "s2"]);
        for (const sessionId of ids)
            await tap.publish(subject("roster"), { o: "odd", op: "remove", sessionId });
        await stillServe();
    });

    test("sessions are not taken away by others", limit, async () => {
        const roster = subject("roster");
        const owner = await idOf("s1");
        tap.forget();
        await tap.publish(roster, { o: "thief", op: "remove", sessionId: "s1" });
        // Said again at once, so that originals have it back.
        await tap.got(
            roster,
            ({ json }) => json.o === owner && json.op === "add" && json.member.sessionId === "s1",
        );
        await stillServe();
        // Claimed by one who is no instance of ours, as if the session were there: it is said again too.
        for (const op of ["add", "heartbeat"]) {
            tap.forget();
            const stolen = { ns: CHAT, sessionId: "s1", userId: "thief" };
            const claim = { o: "thief", op, member: stolen, members: [stolen] };
            await tap.publish(roster, claim);
            await isRead();
            await tap.publish(roster, { o: "thief", op: "remove", sessionId: "s1" });
            await tap.got(roster, ({ json }) => json.o === owner && json.op === "add");
            await stillServe();
        }
    });

    test("lists that never end, and never were", limit, async () => {
        const roster = subject("roster");
        const before_ = peers[0].rss();
        for (let gen = 1; gen <= 3000; gen++)
            tap.bus.publish(
                roster,
                JSON.stringify(
                    beat([], { v: 2, n: gen, gen, part: 1 + (gen % 50), parts: 1000000 }),
                ),
            );
        await isRead();
        // Complete ones of an instance that has nothing delete nothing of others.
        await tap.publish(roster, beat([], { v: 2, n: 4000, gen: 4000, part: 1, parts: 1 }));
        await tap.publish(roster, beat([]));
        await isRead();
        assert.ok(peers[0].rss() - before_ < 16 * MIB);
        await stillServe();
    });

    test("a storm of sync_requests is answered once", limit, async () => {
        const roster = subject("roster");
        const owner = await idOf("s1");
        tap.forget();
        const began = performance.now();
        for (let i = 0; i < 5000; i++)
            tap.bus.publish(roster, JSON.stringify({ o: `storm${i % 100}`, op: "sync_request" }));
        await isRead();
        await tap.got(roster, ({ json }) => json?.o === owner && json.op === "heartbeat");
        await stillServe();
        const answers = tap.of(roster, ({ json }) => json?.o === owner && json.op === "heartbeat");
        const seconds = (performance.now() - began) / 1000;
        assert.ok(answers.length <= seconds + 2, `${answers.length} in ${seconds} s`);
    });

    test("answers that are wanted elsewhere", limit, async () => {
        const roster = subject("roster");
        for (const reply of [
            roster,
            subject("bcast"),
            subject("direct"),
            "a.*",
            ">",
            "x".repeat(2000),
        ])
            for (const v of [undefined, 2]) {
                const ask = JSON.stringify({ o: "lure", op: "sync_request", v });
                tap.bus.publish(roster, ask, { reply });
                await isRead();
            }
        await stillServe();
    });

    test("more members than there may be", limit, async () => {
        const roster = subject("roster");
        const before_ = peers[0].rss();
        const metadata = { pad: "p".repeat(500) };
        for (let i = 0; i < 30000; i++) {
            const flood = {
                o: "flood",
                op: "add",
                member: member({ sessionId: `f${i}`, metadata }),
            };
            tap.bus.publish(roster, JSON.stringify(flood));
            if (i % 500 === 499) await tap.bus.flush();
        }
        // Others still find room.
        await isRead();
        const count = await a.call("count", { ns: CHAT });
        assert.ok(count <= 2000 + 2, `${count}`);
        assert.ok(count > 1000, `${count}`);
        const cid = await b.joined("cid s3");
        await until("the newcomer", async () =>
            (await a.roster()).some(({ sessionId }) => sessionId === "s3"),
        );
        const grown = peers[0].rss() - before_;
        assert.ok(grown < 24 * MIB, `${grown} bytes`);
        // One list of nobody, and all are gone.
        await tap.publish(roster, { o: "flood", op: "heartbeat", members: [] });
        await a.sees(["s1", "s2", "s3"]);
        await cid.close();
        await stillServe();
    });

    test("more instances than there may be", limit, async () => {
        const roster = subject("roster");
        const before_ = peers[0].rss();
        for (let i = 0; i < 20000; i++) {
            const o = `owner ${i} ${"o".repeat(200)}`;
            tap.bus.publish(roster, JSON.stringify({ o, op: "heartbeat", members: [] }));
            if (i % 500 === 499) await tap.bus.flush();
        }
        await tap.publish(roster, { o: "o".repeat(200000), op: "add", member: member() });
        const grown = peers[0].rss() - before_;
        assert.ok(grown < 24 * MIB, `${grown} bytes`);
        await stillServe();
    });

    // --- broadcasts and direct messages ----------------------------------------------------------

    const message = { type: "t", payload: 1 };
    const UNSAID = {
        "no JSON": "{",
        "no message": { ns: CHAT },
        "a message that is a text": { ns: CHAT, message: "t" },
        "a type that is no text": { ns: CHAT, message: { type: 5 } },
        "no type": { ns: CHAT, message: { payload: 1 } },
        "no namespace": { message },
        "a namespace that is a number": { ns: 1, message },
        "a channel that nobody has": { ns: CHAT, channel: "none", message },
        "a channel that is an object": { ns: CHAT, channel: {}, message },
        "nested without end": `{"o":"x","ns":"/ws/chat","message":{"type":"t","payload":${nest(100000)}}}`,
        "a text that is no UTF-8": Buffer.from(
            '{"ns":"/ws/chat","message":{"type":"t","payload":"\u00ff"}}',
            "latin1",
        ),
    };
    test("broadcasts that nobody gets", limit, async () => {
        for (const text of Object.values(UNSAID)) await tap.publish(subject("bcast"), text);
        const UNTOLD = [
            { message },
            { userId: 5, message },
            { userId: null, message },
            { userId: ["ann"], message },
            { userId: "", message },
            { userId: "ann", message: { type: null } },
            { userId: "ann" },
        ];
        for (const text of UNTOLD) await tap.publish(subject("direct"), text);
        await stillServe();
        assert.deepEqual([...ann.of("t"), ...bob.of("t")], []);
        assert.deepEqual([...ann.of(undefined), ...bob.of(undefined)], []);
    });

    test("exceptions that are no exceptions, and very many", limit, async () => {
        const many = Array.from({ length: 20000 }, (_, i) => `e${i}`);
        const lists = [[], null, {}, "s1", [null, 5, {}], many, [...many, "s2"]];
        for (const [n, exceptSessionIds] of lists.entries())
            await tap.publish(subject("bcast"), {
                ns: CHAT,
                exceptSessionIds,
                message: { type: "e", payload: n },
            });
        assert.deepEqual(await ann.got("e", lists.length), [0, 1, 2, 3, 4, 5, 6]);
        await stillServe();
        assert.deepEqual(bob.of("e"), [0, 1, 2, 3, 4, 5]);
    });

    test("a message as large as the server takes", limit, async () => {
        const payload = "x".repeat(MAX_PAYLOAD - 200);
        await tap.publish(subject("bcast"), { ns: CHAT, message: { type: "large", payload } });
        for (const client of [ann, bob]) assert.ok((await client.got("large"))[0] === payload);
        // One of our own that is larger: heard here, told to nobody else, and the connection stays.
        const more = "x".repeat(MAX_PAYLOAD);
        await a.call("broadcast", { ns: CHAT, message: { type: "larger", payload: more } });
        assert.ok((await ann.got("larger"))[0] === more);
        await stillServe();
        assert.deepEqual(bob.of("larger"), []);
        assert.equal(await a.call("connected"), true);
    });
});

describe("hubs among bad clients", { skip: NO_LUA, concurrency: 4 }, () => {
    const alone = (title, config, body) =>
        test(title, limit, () =>
            stage(async (s) => {
                const [a, b] = await Promise.all(
                    ["a", "b"].map((as) => s.instance("lua", { as, ttl_ms: 60000, ...config })),
                );
                const bob = await b.joined("bob s2");
                const ann = await a.joined("ann s1");
                let n = 0;
                const stillServe = async () => {
                    const text = `still ${++n}`;
                    ann.send("say", { text });
                    await until("the word", () =>
                        bob.of("said").some((said) => said.text === text),
                    );
                    bob.send("say", { text: `${text} too` });
                    await until("the answer", () =>
                        ann.of("said").some((said) => said.text === `${text} too`),
                    );
                };
                await stillServe();
                await body({ s, a, b, ann, bob, stillServe });
                await stillServe();
            }),
        );

    alone("words that are no messages", {}, async ({ a, stillServe }) => {
        const client = await a.client();
        for (const text of [
            "",
            "{",
            "[]",
            "null",
            "5",
            '{"type":5}',
            '{"payload":1}',
            nest(20000),
            "\u0000",
        ])
            client.socket.send(text);
        client.socket.send(Buffer.from([1, 2, 3]));
        client.send("join", { userId: 5, sessionId: {} });
        client.send("join", { userId: "", sessionId: "" });
        client.send("join", { userId: "u".repeat(10000), sessionId: "s" });
        client.send("join", { userId: "u", sessionId: "s", channels: "room", metadata: 5 });
        client.send("nothing");
        await stillServe();
        await a.sees(["s1", "s2"]);
        await client.join("eve", "s3");
    });

    alone(
        "a message that is too large ends its connection",
        { max_message_bytes: 1000 },
        async ({ a }) => {
            const client = await a.client();
            client.send("say", { text: "x".repeat(2000) });
            assert.equal(await client.closed, 1009);
        },
    );

    alone(
        "a client that talks too much is not heard",
        { rate: { messages_per_s: 5, burst: 5 } },
        async (s) => {
            const { a, bob } = s;
            const client = await a.client();
            for (let i = 0; i < 2000; i++) client.send("say", { text: "spam" });
            await client.got("said", 5);
            const spam = () => bob.of("said").filter(({ text }) => text === "spam").length;
            await until("the first words", () => spam() >= 5);
            // Ann may speak as ever; what is over the limit is lost for good.
            await s.stillServe();
            assert.ok(spam() < 500, `${spam()}`);
        },
    );

    alone(
        "a client that does not read is closed",
        { max_queue_bytes: 256 * 1024 },
        async ({ a, b, ann, bob }) => {
            const deaf = await a.joined("eve s3");
            deaf.socket.pause();
            const before_ = a.peer.rss();
            const payload = "x".repeat(20000);
            const COUNT = 1500;
            for (let i = 0; i < COUNT; i++)
                await b.call("broadcast", { ns: CHAT, message: { type: "long", payload } });
            await ann.got("long", COUNT);
            await bob.got("long", COUNT);
            await b.sees(["s1", "s2"], { ms: PATIENCE_MS });
            const grown = a.peer.rss() - before_;
            assert.ok(grown < 24 * MIB, `${grown} bytes`);
            deaf.socket.resume();
            await deaf.closed;
        },
    );

    alone(
        "more connections than there may be",
        { max_connections: 20 },
        async ({ a, stillServe }) => {
            const clients = [];
            let refused = 0;
            for (let i = 0; i < 40; i++)
                await a.client().then(
                    (client) => clients.push(client),
                    () => refused++,
                );
            assert.equal(clients.length, 19);
            assert.equal(refused, 21);
            await stillServe();
        },
    );

    alone("joins and leaves without end", {}, async ({ a, b, stillServe }) => {
        const client = await a.client();
        for (let i = 0; i < 3000; i++) client.send("join", { userId: `u${i}`, sessionId: `j${i}` });
        await client.got("joined", 3000);
        for (const instance of [a, b]) await instance.sees(["s1", "s2", "j2999"]);
        await stillServe();
        await client.close();
        for (const instance of [a, b]) await instance.sees(["s1", "s2"]);
    });
});
