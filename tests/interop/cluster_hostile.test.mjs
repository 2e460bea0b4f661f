// cluster_hostile.test.mjs - leaders and followers of znlrun against peers that mean harm or do not read:
// half packets, floods, secrets that are wrong, bodies without end. Everyone else is served meanwhile, and
// memory stays bounded.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, statSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { ClusterPeer, freePort, KINDS, NO_LUA, stage } from "./cluster_peers.mjs";
import { argumentsData, packet, RawFollower, RawLeader } from "./cluster_raw.mjs";
import { decode, encode } from "./cluster_transcode.mjs";
import { sleep, until } from "./scene.mjs";

const limit = { timeout: 120000 };
const MIB = 1024 * 1024;
const skipNpm = NO_LUA || KINDS.find(({ kind }) => kind === "npm").skip;

const registration = (more = {}) =>
    packet({ id: 1, connObj: { type: "register_channel", channelName: "DemoClient", ...more } });

describe("a leader among bad followers", { skip: NO_LUA }, () => {
    let peer, leader, port, good;
    const raws = [];
    const raw = () => {
        const made = new RawFollower(port);
        raws.push(made);
        return made;
    };

    const LIMITS = {
        max_message_bytes: MIB,
        register_ms: 700,
        max_member_keys: 1000,
        max_slow_bytes: 256 * 1024,
    };

    before(async () => {
        peer = new ClusterPeer("lua");
        leader = peer.client("leader");
        port = await freePort();
        await leader.start({
            port,
            response_timeout_ms: 1000,
            demo: { values: { n: 1 } },
            ...LIMITS,
        });
        good = await raw().register();
    });
    after(async () => {
        for (const made of raws) made.destroy();
        await peer?.end();
    });

    /** Others are served: one that is there, and one that comes. */
    const stillServes = async () => {
        assert.equal((await good.invoke("ping")).value, "pong");
        const fresh = await raw().register();
        assert.equal((await fresh.invoke("echoOne", [1])).value, 1);
        fresh.destroy();
    };

    test("connections that say nothing, or half of something, are cut", limit, async () => {
        const whole = registration();
        const lines = [0, 1, 8, 23, 24, 30, whole.length - 1].map((size) =>
            raw().write(whole.subarray(0, size)),
        );
        await stillServes();
        for (const line of lines) await line.end(12000);
    });

    test("a connection for a channel that nobody leads is cut in the end", limit, async () => {
        const line = raw().send({
            id: 1,
            connObj: { type: "register_channel", channelName: "Nobody" },
        });
        await line.end(12000);
        assert.deepEqual(line.packets, []);
    });

    test("other protocols and noise", limit, async () => {
        const noise = Buffer.from(
            Array.from({ length: 4096 }, (_, i) => (i * 7919 + (i >> 3)) & 255),
        );
        for (const bytes of [
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "\0".repeat(100),
            "\xff".repeat(64),
            noise,
        ]) {
            const line = raw().write(Buffer.from(bytes, "latin1"));
            await line.end(12000);
        }
        await stillServes();
    });

    // What breaks the framing ends the connection, registered or not.
    const BROKEN = {
        "a body that is too large": { connObj: {}, appLength: MIB + 1 },
        "a body of two gigabytes": { connObj: {}, appLength: 2 ** 31 - 3 },
        "lengths whose sum overflows": {
            connText: "{}",
            connLength: 2 ** 31 - 1,
            appLength: 2 ** 31 - 1,
        },
        "no body": { connText: "" },
        "a negative connLength": { connObj: { type: "heartbeat" }, connLength: -1, appLength: 30 },
        "a negative appLength": { connObj: { type: "heartbeat" }, appLength: -2 },
        "connObj that is no JSON": { connText: "{type:1}" },
        "connObj that is no object": { connText: "[1]" },
        "connObj that is no UTF-8": {
            connText: Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x3a, 0x31, 0x7d]),
        },
        "connObj nested without end": { connText: `{"type":${"[".repeat(100000)}` },
    };
    for (const [title, fields] of Object.entries(BROKEN))
        test(`${title} ends the connection`, limit, async () => {
            const fresh = raw().send({ id: 2, ...fields });
            await fresh.end(12000);
            const known = (await raw().register()).send({ id: 2, ...fields });
            await known.end(12000);
            await stillServes();
        });

    test("fields of the wrong type are refused, the connection stays", limit, async () => {
        const line = await raw().register();
        const text = (connText, data) => line.send({ id: 9, connText, data });
        const objects = [
            { type: 5 },
            { type: null },
            {},
            { type: "subscribe" },
            { type: "subscribe", key: 7, reg: {} },
            { type: "subscribe", key: "", reg: null },
            { type: "unSubscribe", key: [] },
            { type: "unSubscribe", key: "never" },
        ];
        for (const connObj of objects) text(JSON.stringify(connObj));
        text('{"type":"heartbeat_res"}');
        text('{"type":"subscribe_result","key":"x"}', encode(1));
        await until("the connection to answer or to end", async () => line.closed || line.beats());
        assert.ok(!line.closed);
        await stillServes();
    });

    test("invokes that are wrong are answered with an error", limit, async () => {
        const line = await raw().register();
        let id = 1000;
        const refused = async (fields, data) => {
            const asked = id++;
            line.send({ id: asked, connObj: { type: "invoke", oneway: false, ...fields }, data });
            const { connObj, data: answer } = await line.response(asked);
            assert.equal(connObj.success, false, JSON.stringify(fields));
            const error = decode(answer);
            assert.ok(error.name && error.message && "stack" in error, JSON.stringify(error));
        };
        const one = argumentsData([1]);
        await refused({ argLength: 0 });
        await refused({ method: 7, argLength: 0 });
        await refused({ method: "", argLength: 0 });
        await refused({ method: "__index", argLength: 0 });
        await refused({ method: "set", argLength: 1 }, one); // there, but not declared
        await refused({ method: "echo", argLength: -1 }, one);
        await refused({ method: "echo", argLength: 1.5 }, one);
        await refused({ method: "echo", argLength: 1e9 }, one);
        await refused({ method: "echo", argLength: 2 }, one);
        await refused(
            { method: "echo", argLength: 1 },
            Buffer.from([0x7f, 0xff, 0xff, 0xff, 0x31]),
        );
        await refused(
            { method: "echo", argLength: 1 },
            Buffer.from([0xff, 0xff, 0xff, 0xff, 0x31]),
        );
        const deep = `^^^^${"@".repeat(100000)}`;
        const length = Buffer.alloc(4);
        length.writeInt32BE(deep.length);
        await refused({ method: "echo", argLength: 1 }, Buffer.concat([length, Buffer.from(deep)]));
        assert.ok(await line.beats());
        await stillServes();
    });

    test("more keys than one may have", limit, async () => {
        const line = await raw().register();
        const before_ = peer.rss();
        const reg = (i) => ({ dataId: `none${i}`, pad: "x".repeat(200) });
        for (let i = 0; i < 20000 && !line.closed; i += 500) {
            for (let k = i; k < i + 500; k++) line.subscribe(reg(k));
            await sleep(2);
        }
        await until("an end or an answer", async () => line.closed || line.ended || line.beats());
        const grown = peer.rss() - before_;
        assert.ok(grown < 24 * MIB, `${grown} bytes`);
        await stillServes();
        line.destroy();
    });

    test("calls whose answers nobody reads", limit, async () => {
        const line = await raw().register();
        const before_ = peer.rss();
        line.socket.pause();
        const call = packet({
            id: 5,
            connObj: { type: "invoke", method: "echoOne", argLength: 1, oneway: false },
            data: argumentsData(["y".repeat(10000)]),
        });
        for (let i = 0; i < 6000 && !line.closed; i++) {
            line.write(call);
            if (line.socket.writableLength > 4 * MIB) await sleep(2);
            if (line.socket.writableLength > 16 * MIB) break;
        }
        await stillServes();
        const grown = peer.rss() - before_;
        assert.ok(grown < 48 * MIB, `${grown} bytes`);
        line.destroy();
        await stillServes();
    });

    test("more calls at a time than there may be", limit, async () => {
        const line = await raw().register();
        const ids = Array.from({ length: 20000 }, () => line.ask("slow", [200]));
        const count = () => line.packets.filter(({ kind }) => kind === "response").length;
        await until(
            "every call to be answered or refused",
            () => line.closed || count() === ids.length,
            20000,
        );
        assert.ok(!line.closed);
        await stillServes();
    });

    test("a follower that does not read: the others get all, it gets the last", limit, async () => {
        const ROUNDS = 100;
        const BATCH = 40; // together less than a follower may be behind
        const slow = await raw().register();
        const quick = await raw().register();
        for (const line of [slow, quick]) {
            line.subscribe({ dataId: "big" });
            assert.ok(await line.beats());
        }
        const before_ = peer.rss();
        slow.socket.pause();
        for (let round = 1; round <= ROUNDS; round++) {
            await leader.invoke("flood", "big", BATCH, BATCH, 4000);
            await until("the quick one to have it", () => quick.packets.length === round * BATCH);
        }
        await leader.publish("big", "the last");
        const last = ({ packets }) =>
            packets.length > 0 && decode(packets.at(-1).data) === "the last";
        await until("the last value for the quick one", () => last(quick));
        const grown = peer.rss() - before_;
        assert.ok(grown < 24 * MIB, `${grown} bytes`);
        slow.socket.resume();
        await until("the last value for the slow one", () => last(slow), 20000);
        assert.ok(slow.packets.length < ROUNDS * BATCH, "nothing was left out");
        const times = slow.packets.slice(0, -1).map(({ data }) => decode(data).t);
        assert.deepEqual(
            times,
            times.toSorted((a, b) => a - b),
        );
        await stillServes();
        slow.destroy();
        quick.destroy();
    });

    test("a crowd that connects and goes", limit, async () => {
        const before_ = peer.rss();
        for (let round = 0; round < 10; round++) {
            const crowd = Array.from({ length: 100 }, () => connect(port, "127.0.0.1"));
            for (const socket of crowd) socket.on("error", () => {});
            await Promise.all(
                crowd.map((socket) => new Promise((done) => socket.on("connect", done))),
            );
            for (const socket of crowd) round % 2 ? socket.resetAndDestroy() : socket.destroy();
        }
        await stillServes();
        assert.ok(peer.rss() - before_ < 16 * MIB);
    });
});

describe("connections past the limit", { skip: NO_LUA }, () => {
    test("are refused, the others are served", limit, () =>
        stage(async (s) => {
            const port = await freePort();
            await s.client("lua").start({ port, max_connections: 5 });
            const inside = [];
            for (let i = 0; i < 5; i++)
                inside.push(await s.later(new RawFollower(port)).register());
            const late = s.later(new RawFollower(port));
            await Promise.race([late.register().catch(() => {}), late.end()]);
            assert.equal(late.registered, undefined);
            for (const line of inside) assert.equal((await line.invoke("ping")).value, "pong");
            inside.pop().destroy();
            await until("room again", async () => {
                const next = s.later(new RawFollower(port));
                return next.register().then(
                    () => true,
                    () => false,
                );
            });
        }),
    );
});

describe("a secret", { skip: NO_LUA }, () => {
    const SECRET = "a shared secret of some length";
    const guarded = (body) =>
        stage(async (s) => {
            const port = await freePort();
            const leader = s.client("lua");
            await leader.start({ port, secret: SECRET });
            await body(s, port, leader);
        });
    const follow = { leader: false, max_wait_ms: 1500, response_timeout_ms: 1000 };

    test("who has it is let in", limit, () =>
        guarded(async (s, port) => {
            const follower = s.client("lua");
            await follower.start({ port, secret: SECRET, ...follow });
            assert.equal(await follower.invoke("ping"), "pong");
        }),
    );

    test("who has none, or another, is not", limit, () =>
        guarded(async (s, port) => {
            for (const secret of [undefined, "quite another secret, too"])
                await assert.rejects(s.client("lua").start({ port, secret, ...follow }));
            const line = s.later(new RawFollower(port));
            await line.register();
            assert.equal(line.registered.success, false);
            assert.equal(line.registered.error.name, "AuthenticationError");
            // It was refused: what it asks for now is not done.
            const id = line.ask("ping");
            const answered = line.response(id, 12000).then(
                ({ connObj }) => connObj.success,
                () => false,
            );
            assert.equal(await answered, false);
            await line.end(12000);
        }),
    );

    test("a proof that is made up, or heard before, is none", limit, () =>
        guarded(async (s, port) => {
            const made = [
                { v: 1 },
                { v: 1, proof: "x" },
                { v: "1" },
                [],
                "x",
                { v: 1, proof: "00".repeat(32) },
            ];
            for (const znl of made) {
                const line = s.later(new RawFollower(port));
                await line.register("DemoClient", { znl });
                assert.equal(line.registered.success, false, JSON.stringify(znl));
            }
            // What a real follower has said, said again by someone else.
            const heard = [];
            const middle = await new RawLeader().listen(await freePort());
            s.later(middle);
            const client = s.client("lua");
            const at = middle.server.address().port;
            await client.start({ port: at, secret: SECRET, wait: false, ...follow });
            const { request } = await middle.registration();
            heard.push(request.connObj.znl);
            assert.ok(heard[0]);
            const accepted = [];
            for (const znl of [heard[0], heard[0]]) {
                const line = s.later(new RawFollower(port));
                await line.register("DemoClient", { znl });
                accepted.push(line.registered.success);
            }
            assert.equal(accepted[1], false, "a proof was good twice");
        }),
    );

    test("a follower of the package is refused, and lives", { ...limit, skip: skipNpm }, () =>
        guarded(async (s, port) => {
            await assert.rejects(s.client("npm").start({ port }));
        }),
    );
});

describe("a follower of a bad leader", { skip: NO_LUA, concurrency: 4 }, () => {
    /** A raw leader and a follower that has registered with it. */
    const led = (title, config, body) =>
        test(title, limit, () =>
            stage(async (s) => {
                const port = await freePort();
                const leader = s.later(await new RawLeader().listen(port));
                const client = s.client("lua");
                await client.start({ port, wait: false, ...config });
                const line = await leader.accept();
                await client.event("ready");
                const works = async (on) => {
                    const called = client.invoke("ping");
                    const asked = await on.request("invoke");
                    on.answer(asked, { type: "invoke_result", success: true }, encode("pong"));
                    assert.equal(await called, "pong");
                };
                await body({ client, leader, line, works });
            }),
        );

    for (const [title, fields] of Object.entries({
        "a body over the limit": { connObj: {}, appLength: MIB + 1 },
        "a body of two gigabytes": { connObj: {}, appLength: 2 ** 31 - 3 },
        "a negative length": { connObj: {}, connLength: -5 },
        noise: {
            version: 71,
            type: 69,
            connText: "T / HTTP/1.1",
            connLength: 0x20202020,
            appLength: 0x20202020,
        },
    }))
        led(
            `${title}: it starts over`,
            { max_message_bytes: MIB },
            async ({ leader, line, works }) => {
                line.send({ id: 3, ...fields });
                await line.end(12000);
                await works(await leader.accept(1));
            },
        );

    led("values for keys it does not have, in a flood", {}, async ({ client, line, works }) => {
        const before_ = client.peer.rss();
        const data = encode("x".repeat(1000));
        line.socket.pause(); // nor are the acknowledgements read
        for (let id = 1; id <= 20000 && !line.closed; id++) {
            line.send({ id, connObj: { type: "subscribe_result", key: `none${id}` }, data });
            if (line.socket.writableLength > 4 * MIB) await sleep(2);
            if (line.socket.writableLength > 6 * MIB) break;
        }
        line.socket.resume();
        await works(line);
        const grown = client.peer.rss() - before_;
        assert.ok(grown < 24 * MIB, `${grown} bytes`);
    });

    led("answers to nothing, errors without fields", {}, async ({ client, line, works }) => {
        for (let id = 1; id < 2000; id++)
            line.answer(
                { id: id * 7, timeout: 0 },
                { type: "invoke_result", success: true },
                encode(id),
            );
        for (const value of [
            undefined,
            null,
            7,
            [],
            {},
            "text",
            { message: 5, name: [], code: {} },
        ]) {
            const failing = client.fails("ping");
            const asked = await line.request("invoke");
            line.answer(asked, { type: "invoke_result", success: false }, encode(value));
            assert.equal(typeof (await failing).message, "string");
        }
        await works(line);
    });

    led("a leader that accepts and cuts, again and again", {}, async ({ leader, works }) => {
        for (let i = 0; i < 5; i++) {
            const line = leader.lines.at(-1);
            line.destroy();
            await leader.accept(leader.lines.indexOf(line) + 1);
        }
        await works(leader.lines.at(-1));
    });
});

describe("a unix socket", { skip: NO_LUA }, () => {
    test("leads, follows, and changes hands after a kill", limit, () =>
        stage(async (s) => {
            const folder = mkdtempSync(join(tmpdir(), "znl-cluster-"));
            s.later({ close: () => rmSync(folder, { recursive: true }) });
            const path = join(folder, "run.sock");
            const leader = s.client("lua");
            const follower = s.client("lua");
            assert.deepEqual(await leader.start({ path }), { leader: true });
            assert.equal(statSync(path).mode & 0o777, 0o600);
            assert.deepEqual(await follower.start({ path }), { leader: false });
            await follower.subscribe({ dataId: "d" }, "a");
            await follower.publish("d", 1);
            assert.deepEqual(await follower.got("a", 1), [1]);
            const line = s.later(new RawFollower(path));
            await line.register();
            assert.equal((await line.invoke("ping")).value, "pong");
            await leader.peer.kill();
            await follower.event("ready", (event) => event.leader);
            assert.deepEqual(await follower.got("a", 2), [1, 1]);
            const next = s.client("lua");
            assert.deepEqual(await next.start({ path }), { leader: false });
            assert.equal(await next.invoke("ping"), "pong");
        }),
    );
});
