// cluster_edges.test.mjs - the recorded edge cases of cluster-client: a raw peer that bends or breaks the
// protocol. Where a real process dies, one of znlrun has the remedy that stands here. The package itself is
// played only the cases that it outlives: they prove the player.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { freePort, KINDS, stage, vectors } from "./cluster_peers.mjs";
import { meaning } from "./cluster_player.mjs";
import { argumentsData, packet, parse, RawFollower, RawLeader } from "./cluster_raw.mjs";
import { decode, encode } from "./cluster_transcode.mjs";
import { pack } from "./cluster_values.mjs";
import { sleep, until } from "./scene.mjs";

const limit = { timeout: 60000 };
const MIB = 1024 * 1024;
const { cases } = vectors("edge-cases");
const sideOf = (side) => cases.filter((c) => c.side.startsWith(side));
const KEY = '$$inner$$__{"dataId":"n"}';

/** Plays cases, a few at a time; what goes wrong in some of them is one error. */
async function playAll(some, play) {
    const left = some.values();
    const problems = [];
    const worker = async () => {
        for (const c of left)
            await play(c).catch((error) => problems.push(`${c.case}: ${error.stack}`));
    };
    await Promise.all(Array.from({ length: 6 }, worker));
    assert.equal(problems.length, 0, problems.join("\n"));
}

// --- raw followers ---------------------------------------------------------------------------

const STORED = { values: { n: 1 } };
/** What the leader of a case needs. */
const CONFIG = {
    "subscribe_result never acknowledged (responseTimeout 300)": { response_timeout_ms: 300 },
    "no heartbeats (heartbeatInterval 300): closed after more than 900 ms": { heartbeat_ms: 300 },
    "connected but never registered (heartbeatInterval 300)": { heartbeat_ms: 300 },
    "heartbeat after assignment, before the leader is ready (ready after 700 ms)": {
        demo: { ready_after_ms: 700 },
        wait: false,
    },
    "subscribe on a client without a subscribe method": { demo: { subscribe: false } },
};

/** What a case sends that the record does not hold. */
const REGISTER = packet({
    id: 1,
    connObj: { type: "register_channel", channelName: "DemoClient" },
});
const invoke = (method, ...args) =>
    packet({
        id: 7,
        connObj: { type: "invoke", method, argLength: args.length, oneway: false },
        data: argumentsData(args),
    });
const BIG = "x".repeat(10 * MIB);
const SENT = {
    "byte by byte": [...Buffer.concat([REGISTER, invoke("echoOne", "slow bytes")])].map((byte) =>
        Buffer.from([byte]),
    ),
    "10 MiB argument": [REGISTER, invoke("echoOne", BIG)],
};
const sentIn = (c) => SENT[c.case] ?? c.sent.map((hex) => Buffer.from(hex, "hex"));

/** During a case: the second value of "n", once the first was heard. */
const MEANWHILE = {
    "subscribe twice on one connection: replayed twice, pushed once": 2,
    "subscribe_result never acknowledged (responseTimeout 300)": 1,
};

const answer = (id, success, value) => ({
    id: BigInt(id),
    connObj: { type: "invoke_result", success },
    value,
});
const failed = (name, match) => (error) => {
    assert.equal(error.name, name);
    assert.match(error.message, match);
    assert.equal(typeof error.stack, "string");
};
/** The remedies: what follows the answer to the registration, and whether the connection stays. */
const REMEDIES = {
    "invoke of a method that does not exist": {
        hears: [answer(7, false, failed("TypeError", /doesNotExist/))],
    },
    "oneway invoke of an async method that rejects": { hears: [] },
    "invoke of a method that is not delegated (inherited emit)": {
        hears: [
            answer(7, false, failed("TypeError", /listenerCount/)),
            answer(8, false, failed("TypeError", /constructor/)),
        ],
    },
    "empty body as the first packet, then a valid register": { hears: [], closed: true },
    "id 9007199254740993": { hears: [answer(2n ** 53n + 1n, true, "pong")] },
    "connObj is not JSON, before registration": { hears: [], closed: true },
    "argument is not valid transcode text": { hears: [answer(7, false, failed("TypeError", /./))] },
    "argLength larger than the data": { hears: [answer(7, false, failed("TypeError", /./))] },
    "announced body of 2^31-1 bytes, before registration": { hears: [], closed: true },
    "subscribe on a client without a subscribe method": { hears: [] },
    "method that throws at once": {
        hears: [answer(7, false, failed("Error", /^thrown at once$/))],
    },
    // The key of the follower is the one it delivers by.
    "subscribe with integer-like keys: the leader recomputes the key": {
        key: '$$inner$$__{"dataId":"n","2":1,"1":1.0}',
    },
    "subscribe with a key unrelated to reg": { key: "my-own-key" },
    "subscribe twice on one connection: replayed twice, pushed once": { key: "k" },
    "subscribe_result never acknowledged (responseTimeout 300)": { key: "k" },
};

/** The recorded packets in the same form. */
const recordedOf = (c) =>
    c.received.map(({ hex, kind, connObj }) => {
        const { id, value } = described(parse(Buffer.from(hex, "hex")));
        return kind === "request" ? { connObj, value } : { id, connObj, value };
    });

function described(heard) {
    const { kind, connObj, idHex } = heard;
    const id = kind === "request" ? undefined : BigInt.asIntN(64, BigInt(`0x${idHex}`));
    return { id, connObj, value: heard.data.length > 0 ? decode(heard.data) : undefined };
}

function compare(heard, wanted, title) {
    const { id, connObj, value } = described(heard);
    assert.equal(id, wanted.id, title);
    assert.deepEqual(connObj, wanted.connObj, title);
    if (typeof wanted.value === "function") wanted.value(value);
    else assert.deepEqual(pack(value), pack(wanted.value), title);
}

async function rawFollower({ kind, peer, c, title, s }) {
    const port = await freePort();
    const client = peer.client(title);
    await client.start({ port, demo: STORED, ...CONFIG[title] });
    const other = s.later(new RawFollower(port));
    const late = CONFIG[title]?.wait === false;
    if (!late) await other.register();
    const turns = async () => (await other.beats()) && other.beats(); // of the leader's loop
    const line = s.later(new RawFollower(port));
    const remedy = kind === "lua" ? (REMEDIES[title] ?? {}) : {};
    const registered =
        c.received.filter(({ id, kind: k }) => id === 1 && k === "response").length > 0;
    const wanted = remedy.hears
        ? [...(registered ? recordedOf(c).slice(0, 1) : []), ...remedy.hears]
        : recordedOf(c);
    for (const one of wanted)
        if (one.connObj.key && remedy.key) one.connObj = { ...one.connObj, key: remedy.key };
    if (title === "10 MiB argument") wanted.push(answer(7, true, BIG));

    const heard = (count) =>
        until(
            `${title}: ${count} packets`,
            () => line.packets.length >= count || line.closed,
            12000,
        );
    const sent = sentIn(c);
    for (const [index, bytes] of sent.entries()) {
        line.write(bytes);
        if (bytes.equals(REGISTER) && index === 0 && !late) await heard(1);
        else if (title === "byte by byte") await sleep(1);
        // The package forgets what stands behind a packet that it drops: one segment each.
        else if (index < sent.length - 1 && !late) await turns();
    }
    if (title === "follower half-closes (FIN)") line.socket.end();
    if (MEANWHILE[title]) {
        await heard(MEANWHILE[title] + 1);
        await client.publish("n", 2);
    }
    await heard(wanted.length);
    assert.equal(
        line.packets.length,
        wanted.length,
        `${title}: ${line.packets.map((p) => p.connText)}`,
    );
    // Two answers may have changed places: they are put together by their ids.
    for (const [index, one] of wanted.entries()) {
        const same = line.packets.find((p) => p.kind === "response" && described(p).id === one.id);
        compare(
            one.id === undefined ? line.packets[index] : (same ?? line.packets[index]),
            one,
            title,
        );
    }
    line.packets.length = 0;

    const closed = remedy.closed ?? (remedy.hears ? false : c.connection === "closed by leader");
    if (closed) await line.end(12000);
    else if (registered) assert.ok(await line.beats(), title);
    else assert.ok(!line.closed && !line.ended, title);
    assert.deepEqual(line.packets, [], title);
    line.destroy();

    const last = s.later(new RawFollower(port));
    await last.register();
    assert.equal((await last.invoke("ping")).value, "pong", title);
    await client.call("close");
}

describe("raw followers", { concurrency: 2 }, () => {
    for (const { kind, skip } of KINDS) {
        const lives = (c) => kind === "lua" || c.leader_process === "alive";
        test(`${kind}: the recorded edge cases`, { skip, ...limit }, () =>
            stage(async (s) => {
                const peer = s.peer(kind);
                const some = sideOf("raw follower").filter(lives);
                await playAll(some, (c) => rawFollower({ kind, peer, c, title: c.case, s }));
                assert.equal(some.length, kind === "lua" ? 44 : 35);
            }),
        );
    }
});

// --- raw leaders -----------------------------------------------------------------------------

const response = (line, { id }, type, more, data) =>
    line.send({ type: 1, id, connObj: { type, ...more }, data });
const register = (line, request, data = encode({ success: true }), more) =>
    line.send({
        type: 1,
        id: request.id,
        connObj: { type: "register_channel_res" },
        data,
        ...more,
    });
const RESULT = "invoke_result";
const TEXT = encode("v");
const GARBAGE = Buffer.from("garbage");
const push = (line, key, data, id = 5) =>
    line.send({ id, connObj: { type: "subscribe_result", key }, data });
const acknowledged = async (line, id) => {
    const { connObj } = await line.response(id);
    assert.deepEqual(connObj, { type: "subscribe_result_res" });
};
/** The follower is as it was: it calls and hears. */
async function works({ client, line }) {
    const outcome = await called({ client, line }, (_, request) =>
        response(line, request, RESULT, { success: true }, encode("pong")),
    );
    assert.deepEqual(outcome, { ok: "pong" });
}
/** The follower has given the connection up and registers on another. */
async function startsOver({ client, leader, line }) {
    await line.end(12000);
    const fresh = await leader.accept(leader.lines.indexOf(line) + 1);
    await client.event("ready", ({ at }) => at >= client.all("lost")[0]?.at);
    await works({ client, line: fresh });
}
/** A call that is answered by `reply(line, request)`: what it comes to. */
async function called({ client, line }, reply) {
    const outcome = client.invoke("ping").then(
        (ok) => ({ ok }),
        (error) => ({ error }),
    );
    reply(line, await line.request("invoke"));
    return outcome;
}

/** What a raw leader does to a follower. `joined`: one that has registered; `fresh`: one that is waiting. */
const AGAINST = {
    "register_channel_res without data": {
        // The package dies of it; a follower of ours takes it for an answer that is none.
        dies: true,
        async fresh({ line, request, leader, client }) {
            response(line, request, "register_channel_res");
            const again = await otherRegistration(leader, line);
            register(again.line, again.request);
            await client.event("ready", ({ error }) => !error);
            await works({ client, line: again.line });
        },
    },
    "register_channel_res with success=false and no error object": {
        async fresh({ line, request, leader, client }) {
            register(line, request, encode({ success: false }));
            line.packets.length = 0;
            line.socket.end();
            const again = await otherRegistration(leader, line);
            register(again.line, again.request);
            await client.event("ready", ({ error }) => !error);
            await works({ client, line: again.line });
        },
    },
    "register answered under another connObj type": {
        async fresh({ line, request, client }) {
            response(line, request, "whatever", {}, encode({ success: true }));
            await client.event("ready", ({ error }) => !error);
            await works({ client, line });
        },
    },
    "register answered with version 7 and timeout 0": {
        async fresh({ line, request, client }) {
            register(line, request, undefined, { version: 7, timeout: 0 });
            await client.event("ready", ({ error }) => !error);
            await works({ client, line });
        },
    },
    "subscribe_result without data: not delivered, not acknowledged": {
        async joined(scene) {
            const { line, client } = scene;
            await client.subscribe({ dataId: "d" }, "d");
            const { connObj } = await line.request("subscribe");
            push(line, connObj.key, undefined, 5);
            push(line, connObj.key, encode("now with data"), 6);
            // znlrun acknowledges every packet: it is the leader's only sign that it came.
            if (scene.kind === "lua") await acknowledged(line, 5);
            await acknowledged(line, 6);
            assert.deepEqual(await client.got("d", 1), ["now with data"]);
            await works(scene);
            assert.deepEqual(line.packets, []);
        },
    },
    "subscribe_result for an unknown key: acknowledged, not delivered": {
        async joined(scene) {
            push(scene.line, "unknown", TEXT);
            await acknowledged(scene.line, 5);
            await works(scene);
        },
    },
    "subscribe_result with broken transcode text": {
        // A value that is none is not delivered; the next one is.
        async joined(scene) {
            const { line, client } = scene;
            await client.subscribe({ dataId: "d" }, "d");
            const { connObj } = await line.request("subscribe");
            push(line, connObj.key, GARBAGE, 5);
            push(line, connObj.key, encode("good"), 6);
            await acknowledged(line, 6);
            assert.deepEqual(await client.got("d", 1), ["good"]);
            await works(scene);
        },
    },
    "invoke answered under another connObj type: the caller gets raw bytes": {
        async joined(scene) {
            const { ok, error } = await called(scene, (line, request) =>
                response(line, request, "whatever", {}, TEXT),
            );
            if (scene.kind === "npm") assert.deepEqual(ok, TEXT);
            else assert.ok(error || Buffer.from(ok).equals(TEXT), `${ok}`);
            await works(scene);
        },
    },
    "invoke_result success=true without data": {
        async joined(scene) {
            const outcome = await called(scene, (line, request) =>
                response(line, request, RESULT, { success: true }),
            );
            assert.deepEqual(outcome, { ok: undefined });
            await works(scene);
        },
    },
    "invoke_result success=false without data: follower closes and starts over": {
        async joined(scene) {
            const { error } = await called(scene, (line, request) =>
                response(line, request, RESULT, { success: false }),
            );
            assert.ok(error);
            await (scene.kind === "npm" ? startsOver : works)(scene);
        },
    },
    "invoke_result success=false with extra fields": {
        async joined(scene) {
            const data = encode({ name: "N", message: "m", code: 7, extra: 1 });
            const { error } = await called(scene, (line, request) =>
                response(line, request, RESULT, { success: false }, data),
            );
            const { errorName, message, code } = error;
            assert.deepEqual([errorName, message, code], ["N", "m", 7]);
            await works(scene);
        },
    },
    "unknown request type from the leader, with data: ignored": {
        async joined(scene) {
            scene.line.send({ id: 9, connObj: { type: "news" }, data: TEXT });
            await works(scene);
            assert.deepEqual(scene.line.packets, []);
        },
    },
    "heartbeat request from the leader: ignored": {
        async joined(scene) {
            scene.line.send({ id: 9, connObj: { type: "heartbeat" } });
            await works(scene);
            assert.deepEqual(scene.line.packets, []);
        },
    },
    "response with an unknown id: ignored": {
        async joined(scene) {
            response(scene.line, { id: 4711 }, RESULT, { success: true }, TEXT);
            await works(scene);
        },
    },
    "empty body: follower closes and starts over": {
        async joined(scene) {
            scene.line.send({ id: 9, connText: "" });
            await startsOver(scene);
        },
    },
    "heartbeats never answered (heartbeatInterval 500): closed by the follower": {
        config: { heartbeat_ms: 500 },
        joined: startsOver,
    },
    "heartbeats answered (heartbeatInterval 500)": {
        config: { heartbeat_ms: 1500 }, // an answer that is late ends it
        async joined(scene) {
            for (let i = 0; i < 4; i++) {
                const beat = await scene.line.request("heartbeat");
                response(scene.line, beat, "heartbeat_res");
            }
            assert.ok(!scene.line.closed && !scene.line.ended);
        },
    },
    "leader that never answers register_channel": {
        config: { response_timeout_ms: 500 },
        async fresh({ line, request, client }) {
            const second = await line.request("register_channel", 12000);
            assert.notEqual(second.id, request.id);
            register(line, second);
            await client.event("ready", ({ error }) => !error);
            await works({ client, line });
        },
    },
    "leader closes the connection: what the follower sends on the next one": {
        async joined({ line, client, leader }) {
            await client.subscribe({ dataId: "d" }, "d");
            await line.request("subscribe");
            for (const value of [1, 2, 1]) {
                await client.publish("p", value);
                await line.request("invoke");
            }
            line.socket.end();
            const next = await leader.accept(1);
            const { connObj } = await next.request("subscribe");
            assert.deepEqual(connObj, {
                type: "subscribe",
                key: '$$inner$$__{"dataId":"d"}',
                reg: { dataId: "d" },
            });
            const last = [];
            for (;;) {
                const sent = await next.request("invoke");
                assert.deepEqual([sent.connObj.method, sent.connObj.oneway], ["publish", true]);
                last.push(meaning(sent)[0].value);
                if (last.length === 2) break;
            }
            assert.deepEqual(last, [1, 2]);
        },
    },
    "connObj is not JSON: follower closes and starts over": {
        async joined(scene) {
            scene.line.send({ id: 9, connText: '{"type":' });
            await startsOver(scene);
        },
    },
    "invoke_result with broken transcode text: follower closes and starts over": {
        async joined(scene) {
            const { error } = await called(scene, (line, request) =>
                response(line, request, RESULT, { success: true }, GARBAGE),
            );
            assert.ok(error);
            await (scene.kind === "npm" ? startsOver : works)(scene);
        },
    },
    "extra fields in register_channel_res and invoke_result are ignored": {
        async fresh({ line, request, client }) {
            response(
                line,
                request,
                "register_channel_res",
                { x: 1 },
                encode({ success: true, y: 2 }),
            );
            await client.event("ready", ({ error }) => !error);
            const outcome = await called({ line, client }, (_, asked) =>
                response(line, asked, RESULT, { success: true, z: [1] }, TEXT),
            );
            assert.deepEqual(outcome, { ok: "v" });
        },
    },
    "subscribe_result before the register answer": {
        async fresh({ line, request, client }) {
            push(line, KEY, TEXT);
            await acknowledged(line, 5);
            register(line, request);
            await client.event("ready", ({ error }) => !error);
            await works({ client, line });
        },
    },
};

/** The next registration: on this connection or on another. */
async function otherRegistration(leader, line) {
    const isRegistration = ({ connObj }) => connObj.type === "register_channel";
    const found = () => leader.lines.find((one) => one.packets.some(isRegistration));
    const next = await until("another registration", found, 12000);
    return { line: next, request: await next.request("register_channel") };
}

async function rawLeader({ kind, peer, title, s }) {
    const { config, fresh, joined } = AGAINST[title];
    const port = await freePort();
    const leader = s.later(await new RawLeader().listen(port));
    const client = peer.client(title);
    await client.start({ port, wait: false, ...config });
    const scene = { kind, leader, client };
    if (fresh) await fresh({ ...scene, ...(await leader.registration()) });
    else {
        const line = await leader.accept();
        await client.event("ready");
        await joined({ ...scene, line });
    }
    await client.call("close");
    leader.close();
}

describe("raw leaders", { concurrency: 2 }, () => {
    for (const { kind, skip } of KINDS)
        test(`${kind}: the recorded edge cases`, { skip, ...limit }, () =>
            stage(async (s) => {
                const peer = s.peer(kind);
                const lives = (c) =>
                    kind === "lua" || (c.follower_process === "alive" && !AGAINST[c.case].dies);
                const some = sideOf("raw leader").filter(lives);
                assert.deepEqual(
                    sideOf("raw leader")
                        .map((c) => c.case)
                        .sort(),
                    Object.keys(AGAINST).sort(),
                );
                assert.equal(some.length, kind === "lua" ? 23 : 20);
                await playAll(some, (c) => rawLeader({ kind, peer, title: c.case, s }));
            }),
        );
});
