// calls.test.mjs - the calls extension where it must not be noticed: znlrun against peers without it,
// looking at every frame that reaches them. Settings as in interop.test.mjs.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
    concurrency,
    ENC,
    fails,
    flavoursOf,
    freeEndpoint,
    hex,
    isOnline,
    KEYS,
    limit,
    masterOptions,
    MODES,
    PAIRS,
    scene,
    slaveOptions,
    sleep,
    until,
} from "./scene.mjs";
import * as znl from "./znl.mjs";

const CALL = hex("__znl_v1_call__");
const EXT = hex("__znl_v1_ext__");
const PLAIN = { encrypted: false };

/** Pairs of znlrun with somebody else, in both modes. */
const MIXED = PAIRS.filter(({ master, slave }) => (master === "lua") !== (slave === "lua"))
    .flatMap(flavoursOf)
    .flatMap((pair) =>
        Object.entries(MODES)
            .filter(([, mode]) => mode.both && !mode.since)
            .map(([mode, { both }]) => ({ ...pair, mode, both })),
    );

const text = (frame) => Buffer.from(frame, "hex").toString();

/** The messages of one action among those that `peer` received. */
const beats = (peer, action) => peer.all("raw", ({ frames }) => text(frames[1]) === action);

/** What a peer without calls received: only greetings may carry an extension, and nothing a call. */
async function checkFrames(peer, { encrypted }) {
    // Another process may say that it was answered before this one has told what it received.
    await peer.event("raw");
    await peer.call("watch");
    const seen = peer.all("raw").map(({ frames }) => frames);
    assert.ok(seen.length > 0, "nothing was received");
    const payload = encrypted ? 4 : 1;
    const proof = encrypted ? 2 : 0;
    for (const frames of seen) {
        const action = text(frames[1]);
        const note = frames.map(text).join(" | ");
        assert.ok(!frames.includes(CALL), note);
        if (["register", "heartbeat"].includes(action)) {
            assert.equal(frames.length, 2 + proof + (encrypted ? 3 : 2), note);
            assert.equal(frames[2 + proof], EXT, note);
            assert.equal(text(frames[3 + proof]), "call=1");
            continue;
        }
        assert.ok(!frames.includes(EXT), note);
        const names = { heartbeat_ack: 0, unregister: 0, svc_req: 2, svc_res: 2 }[action] ?? 1;
        const body = ["heartbeat_ack", "unregister"].includes(action) ? 0 : payload;
        if (action !== "unregister")
            assert.equal(frames.length, 2 + names + proof + body, note);
    }
    return seen.map((frames) => text(frames[1]));
}

describe("a peer without calls notices nothing", { concurrency }, () => {
    for (const pair of MIXED) {
        test(`${pair.label}, ${pair.mode}`, { skip: pair.skip, ...limit }, () =>
            scene(async (s) => {
                const endpoint = await freeEndpoint();
                const start = (side) =>
                    s.peer(
                        pair[side],
                        (side === "master" ? masterOptions : slaveOptions)(endpoint, {
                            ...pair.flavours[side],
                            ...pair.both,
                        }),
                    );
                const master = await start("master");
                if (pair.slave === "lua") await master.call("watch");
                const slave = await start("slave");
                if (pair.master === "lua") await slave.call("watch");
                await isOnline(master, slave);
                const [own, other] = pair.master === "lua" ? [master, slave] : [slave, master];
                const to = own === master ? "slave-1" : undefined;

                await until("a known answer", async () => {
                    try {
                        await own.call("call", { to, route: "/x", data: 1, timeout_ms: 300 });
                    } catch (error) {
                        return error.code === "UNSUPPORTED";
                    }
                    return assert.fail("a call was answered");
                });
                own.expectTrouble = true;
                assert.deepEqual(await own.request({ to, frames: [hex("one")] }), [hex("one")]);
                assert.deepEqual(
                    await other.request({
                        to: other === master ? "slave-1" : undefined,
                        frames: [hex("two")],
                    }),
                    [hex("two")],
                );
                // Refused, raised, overdue: nothing comes back.
                for (const asked of ["refuse", "throw", "sleep:400"])
                    await fails(
                        other,
                        other.request({
                            to: other === master ? "slave-1" : undefined,
                            frames: [hex(asked)],
                            timeout_ms: 200,
                        }),
                        "TIMEOUT",
                    );
                if (own === master)
                    await master.call("publish", { topic: "t", frames: [hex("p")] });
                else if (pair.push) await slave.call("push", { topic: "t", frames: [hex("p")] });
                // The late answer, and two heartbeats or what answers them.
                await sleep(400);
                const beat = other === master ? "heartbeat" : "heartbeat_ack";
                await until("two heartbeats", () => beats(other, beat).length >= 2);
                const actions = await checkFrames(other, pair.both);
                assert.ok(actions.filter((a) => a === "req").length >= 1, `${actions}`);
                assert.ok(actions.filter((a) => a === "res").length >= 1, `${actions}`);
                assert.deepEqual(other.all("auth_failed"), []);
                assert.equal(other.all("slave_disconnected").length, 0);
                assert.ok(other.all("slave_connected").length <= 1);
            }),
        );
    }
});

describe("an id and an endpoint that change hands", { concurrency }, () => {
    for (const pair of MIXED.filter(({ mode }) => mode !== "encrypted, digest on")) {
        const title = `${pair.label}, ${pair.mode}`;
        const oursIsMaster = pair.master === "lua";
        if (oursIsMaster)
            test(`${title}: first our slave, then theirs`, { skip: pair.skip, ...limit }, () =>
                scene(async (s) => {
                    const endpoint = await freeEndpoint();
                    const master = await s.peer("lua", masterOptions(endpoint, pair.both));
                    const first = await s.peer("lua", slaveOptions(endpoint, pair.both));
                    await isOnline(master, first);
                    const { route } = await master.call("call", {
                        to: "slave-1",
                        route: "/a",
                        timeout_ms: 20000,
                    });
                    assert.equal(route, "/a");
                    // Killed, so that the master learns of it only by what comes next.
                    await first.kill();
                    const second = await s.peer(
                        pair.slave,
                        slaveOptions(endpoint, { ...pair.flavours.slave, ...pair.both }),
                    );
                    await second.call("watch");
                    await until("the new slave", () => second.call("online"));
                    await fails(
                        master,
                        master.call("call", { to: "slave-1", route: "/a", timeout_ms: 20000 }),
                        "UNSUPPORTED",
                    );
                    assert.deepEqual(
                        await master.request({ to: "slave-1", frames: [hex("x")] }),
                        [hex("x")],
                    );
                    await checkFrames(second, pair.both);
                }),
            );
        else
            test(`${title}: first our master, then theirs`, { skip: pair.skip, ...limit }, () =>
                scene(async (s) => {
                    const endpoint = await freeEndpoint();
                    const first = await s.peer("lua", masterOptions(endpoint, pair.both));
                    const slave = await s.peer("lua", slaveOptions(endpoint, pair.both));
                    await isOnline(first, slave);
                    // Calls all the time, while the master goes and another takes its place.
                    const calling = slave.call("call_until", {
                        route: "/a",
                        code: "UNSUPPORTED",
                        timeout_ms: 15000,
                    });
                    await sleep(100);
                    await first.kill();
                    const second = await s.peer(
                        pair.master,
                        masterOptions(endpoint, {
                            ...pair.flavours.master,
                            ...pair.both,
                        }),
                    );
                    await second.call("watch");
                    assert.ok((await calling) > 0, "no call was answered before");
                    assert.deepEqual(await slave.request({ frames: [hex("x")] }), [hex("x")]);
                    await until("a heartbeat", () => beats(second, "heartbeat").length >= 1);
                    await checkFrames(second, pair.both);
                }),
            );
    }
});

describe("between nodes of ours", { concurrency }, () => {
    const skip = PAIRS.find(({ name }) => name === "lua/lua")?.skip ?? "not among the pairs";
    for (const [mode, both] of [
        ["plain", PLAIN],
        ["encrypted", ENC],
    ])
        test(`calls go on while either side is killed, ${mode}`, { skip, ...limit }, () =>
            scene(async (s) => {
                const endpoint = await freeEndpoint();
                let master = await s.peer("lua", masterOptions(endpoint, both));
                let slave = await s.peer("lua", slaveOptions(endpoint, both));
                await isOnline(master, slave);
                for (let round = 0; round < 2; round++) {
                    const { data } = await slave.call("call", {
                        route: "/a",
                        data: { round },
                        timeout_ms: 20000,
                    });
                    assert.deepEqual(data, { round });
                    assert.deepEqual(
                        await slave.call("call", { route: "/relay", timeout_ms: 20000 }),
                        [hex("relayed")],
                    );
                    await fails(
                        slave,
                        slave.call("call", { route: "/refuse", timeout_ms: 20000 }),
                        "AUTH",
                    );
                    if (round === 1) break;
                    await master.kill();
                    master = await s.peer("lua", masterOptions(endpoint, both));
                    await until("calls to the new master", () =>
                        slave
                            .call("call", { route: "/b", timeout_ms: 500 })
                            .then(({ route }) => route === "/b")
                            .catch(({ code }) => {
                                assert.ok(["TIMEOUT", "REBUILT"].includes(code), code);
                            }),
                    );
                    await slave.kill();
                    slave = await s.peer("lua", slaveOptions(endpoint, both));
                    await isOnline(master, slave);
                    const { route } = await master.call("call", {
                        to: "slave-1",
                        route: "/c",
                        timeout_ms: 20000,
                    });
                    assert.equal(route, "/c");
                }
            }),
        );

    test("frames added to a message on its way are refused", { skip, ...limit }, () =>
        scene(async (s) => {
            const endpoint = await freeEndpoint();
            const master = await s.peer("lua", masterOptions(endpoint, ENC));
            const socket = s.raw("Dealer", { routingId: "slave-1" });
            socket.connect(endpoint);
            const heartbeat = znl.build(
                { kind: "heartbeat" },
                { senderId: "slave-1", keys: KEYS },
            );
            await socket.send([...heartbeat, "__znl_v1_ext__", "call=1"]);
            const ack = (await socket.receive()).map(String);
            assert.deepEqual([ack[1], ack.length], ["heartbeat_ack", 4]);
            const { reason, from } = await master.event("auth_failed");
            assert.deepEqual([reason, from], ["missing_proof", "slave-1"]);
            assert.deepEqual(await master.slaves(), ["slave-1"]);
            await fails(
                master,
                master.call("call", { to: "slave-1", route: "/x", timeout_ms: 300 }),
                "UNSUPPORTED",
            );
        }),
    );
});
