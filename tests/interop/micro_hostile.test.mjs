// micro_hostile.test.mjs - what a registry and an application of znlrun do when peers break the rules
// of HTTP, WebSocket, JSON or micro: each gets its documented outcome, the others are served on,
// and memory stays bounded.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { MicroPeer, NO_LUA } from "./micro_peers.mjs";
import { frame, OPCODE, Raw } from "./micro_raw.mjs";
import { sleep, until } from "./scene.mjs";

const MIB = 1024 * 1024;
const limit = { timeout: 120000 };
const LIMITS = {
    handshake_ms: 500,
    max_message_bytes: MIB,
    max_write_bytes: MIB,
};

describe("hostile peers", { skip: NO_LUA, concurrency: 4 }, () => {
    let process_, registry, provider;
    const raws = [];

    const raw = (object = registry) => {
        const made = new Raw(object.port);
        raws.push(made);
        return made;
    };
    let nextPort = 40000;
    const dial = (object, namespace = "probe") =>
        raw(object).open(`/127.0.0.1/${nextPort++}/${namespace}`);

    /** Both still serve whoever keeps the rules. */
    const stillServes = async () => {
        const good = await dial(registry, "good");
        const found = await good.ask(1, "/-/find", { namespace: "provider" }).response(1);
        assert.deepEqual(found, { status: 200, data: { host: "127.0.0.1", port: provider.port } });
        good.destroy();
        const asker = await dial(provider, "good");
        const echoed = await asker.ask(1, "/echo", [1]).response(1);
        assert.deepEqual(echoed, { status: 200, data: [1] });
        asker.destroy();
    };

    before(async () => {
        process_ = new MicroPeer("lua");
        registry = process_.object("registry", "lua");
        provider = process_.object("provider", "lua");
        await registry.start("registry", undefined, { ...LIMITS, max_topics: 1000 });
        await provider.start("application", registry.port, LIMITS);
    });

    after(async () => {
        for (const made of raws) made.destroy();
        await stillServes();
        await process_.end();
    });

    // --- HTTP ------------------------------------------------------------------------------

    const HEADS = {
        "no HTTP at all": ["\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", [400, undefined]],
        "a plain page": ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", [426, 404]],
        "another method": ["POST /a/1/b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", [405, 426, 400]],
        "an old version": [
            Raw.request("/127.0.0.1/41000/x", { "Sec-WebSocket-Version": "8" }),
            [426, 400],
        ],
        "no key": [Raw.request("/127.0.0.1/41000/x", { "Sec-WebSocket-Key": undefined }), [400]],
        "a short key": [Raw.request("/127.0.0.1/41000/x", { "Sec-WebSocket-Key": "YWJj" }), [400]],
        "a head without end": [
            `GET / HTTP/1.1\r\nX: ${"y".repeat(300000)}`,
            [431, undefined],
        ],
        "two lengths": [
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
            [400],
        ],
        "a folded header": ["GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n", [400]],
    };
    for (const [title, [text, wanted]] of Object.entries(HEADS))
        test(`${title} is refused`, limit, async () => {
            const peer = raw().write(Buffer.from(text, "latin1"));
            const status = await peer.answer();
            assert.ok(wanted.includes(status), `${status}`);
            await until("the end or the next request", () => peer.closed || status, 2000);
        });

    test("a handshake that takes its time is cut", limit, async () => {
        const peers = Array.from({ length: 50 }, () => raw().write("GET / HT"));
        const began = Date.now();
        const dribble = setInterval(() => {
            for (const peer of peers) peer.write("x");
        }, 100);
        await until("all to be cut", () => peers.every((peer) => peer.closed), 4000);
        clearInterval(dribble);
        assert.ok(Date.now() - began < 3000);
        await stillServes();
    });

    test("a connection that says nothing is cut", limit, async () => {
        const peers = Array.from({ length: 50 }, () => raw());
        await until("all to be cut", () => peers.every((peer) => peer.closed), 4000);
    });

    test("permessage-deflate is never agreed to", limit, async () => {
        const peer = await raw().open("/127.0.0.1/41001/x", {
            "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
        });
        assert.doesNotMatch(peer.head, /extensions/i);
    });

    // --- WebSocket -------------------------------------------------------------------------

    const ok = '{"id":1,"twoway":true,"data":{"url":"/-/find","data":{"namespace":"nowhere"}},"mode":0}';
    const BROKEN = {
        "a frame without mask": [[frame(ok, { masked: false })], [1002]],
        "a reserved bit": [[frame(ok, { rsv: 4 })], [1002]],
        "an unknown opcode": [[frame(ok, { opcode: 3 })], [1002]],
        "an unknown control opcode": [[frame("", { opcode: 11 })], [1002]],
        "a ping in pieces": [[frame("a", { opcode: OPCODE.ping, fin: false })], [1002]],
        "a ping that is too long": [
            [frame("a".repeat(126), { opcode: OPCODE.ping })],
            [1002],
        ],
        "a continuation of nothing": [[frame("a", { opcode: OPCODE.continuation })], [1002]],
        "a message inside another": [
            [frame("{", { fin: false }), frame("}")],
            [1002],
        ],
        "a length longer than needed": [[frame(ok, { wide: 8 })], [1002]],
        "a length past everything": [[frame("", { size: 2 ** 52, wide: 8 })], [1009, 1002]],
        "a message that is too large": [[frame("", { size: 2 * MIB, wide: 8 })], [1009]],
        "pieces that are too large": [
            [
                frame('"', { fin: false }),
                ...Array.from({ length: 3 }, () =>
                    frame("x".repeat(MIB / 2), { opcode: OPCODE.continuation, fin: false }),
                ),
            ],
            [1009],
        ],
        "a close code nobody may send": [
            [frame(Buffer.from([0x03, 0xed]), { opcode: OPCODE.close })],
            [1002],
        ],
        "a close of one byte": [[frame("a", { opcode: OPCODE.close })], [1002]],
        "a close reason that is no UTF-8": [
            [frame(Buffer.from([0x03, 0xe8, 0xff]), { opcode: OPCODE.close })],
            [1007, 1002],
        ],
    };
    for (const [title, [frames, codes]] of Object.entries(BROKEN))
        test(`${title} ends the connection`, limit, async () => {
            for (const object of [registry, provider]) {
                const peer = await dial(object);
                for (const bytes of frames) peer.write(bytes);
                const code = await peer.end();
                assert.ok(codes.includes(code), `${object.as}: ${code}`);
            }
        });

    test("pings are answered, also between the pieces of a message", limit, async () => {
        const peer = await dial(registry);
        peer.write(frame(ok.slice(0, 20), { fin: false }));
        peer.write(frame("are you there", { opcode: OPCODE.ping }));
        peer.write(frame(ok.slice(20), { opcode: OPCODE.continuation }));
        assert.deepEqual(await peer.response(1), { status: 200 });
        const pong = peer.frames.find(({ opcode }) => opcode === OPCODE.pong);
        assert.equal(pong.payload.toString(), "are you there");
    });

    test("a message byte by byte is a message", limit, async () => {
        const peer = await dial(registry);
        for (const byte of frame(ok)) {
            peer.write(Buffer.from([byte]));
            await sleep(1);
        }
        assert.deepEqual(await peer.response(1), { status: 200 });
    });

    test("a polite close is answered without a code", limit, async () => {
        const peer = await dial(registry);
        peer.write(frame("", { opcode: OPCODE.close }));
        assert.equal(await peer.end(), 1005);
        await until("the socket to end", () => peer.closed);
    });

    // --- JSON and micro --------------------------------------------------------------------

    const deep = (n) => `${"[".repeat(n)}${"]".repeat(n)}`;
    const wrapped = (data) => `{"id":9,"twoway":true,"data":{"url":"/echo","data":${data}},"mode":0}`;
    // Dropped without an answer; the connection stays.
    const DROPPED = {
        "no JSON": "not json",
        "an empty text": "",
        "a list": "[1,2]",
        null: "null",
        "an unknown mode": '{"id":1,"mode":9,"twoway":true,"data":{}}',
        "a mode that is text": '{"id":1,"mode":"0","twoway":true,"data":{}}',
        "two values": `${ok}${ok}`,
        "a comma too many": '{"id":1,"mode":0,}',
        "no id": '{"mode":0,"twoway":true,"data":{"url":"/echo"}}',
        "an id that is text": '{"id":"1","mode":0,"twoway":true,"data":{"url":"/echo"}}',
        "an id past 2^53": '{"id":9007199254740993,"mode":0,"twoway":false,"data":{"url":"/echo"}}',
        "a response to nothing": '{"id":77,"mode":1,"twoway":false,"data":{"status":200}}',
        "a response without data": '{"id":78,"mode":1,"twoway":false}',
        "a chunk of nothing": '{"id":79,"mode":1,"stream":true,"data":{"status":200,"seq":0}}',
        "an abort of nothing": '{"id":5,"twoway":false,"data":4242,"mode":2}',
        "an abort of an object": '{"id":5,"twoway":false,"data":{},"mode":2}',
        "a nesting without end": wrapped(deep(200000)),
        "a nesting that never closes": "[".repeat(500000),
        "a lone surrogate": wrapped('"\\ud800"'),
        "a control character": wrapped('"\u0001"'),
        "a number that is none": wrapped("01"),
        NaN: wrapped("NaN"),
    };
    test("frames that are none are dropped, the connection stays", limit, async () => {
        for (const object of [registry, provider])
            for (const [title, text] of Object.entries(DROPPED)) {
                const peer = await dial(object);
                peer.text(text).ask(1, "/-/find", { namespace: "nowhere" });
                const { status } = await peer.response(1).catch((error) => {
                    throw new Error(`${object.as}, ${title}: ${error.message}`);
                });
                assert.ok([200, 500].includes(status), `${title}: ${status}`);
                peer.destroy();
            }
    });

    test("text that is no UTF-8 never reaches a handler", limit, async () => {
        const peer = await dial(provider);
        const [head, tail] = wrapped('"?"').split("?");
        for (const bytes of [[0xff], [0xc0, 0x80], [0xed, 0xa0, 0x80], [0xf5, 0x80, 0x80, 0x80]]) {
            peer.write(frame(Buffer.concat([Buffer.from(head), Buffer.from(bytes), Buffer.from(tail)])));
            await sleep(5);
        }
        if (!peer.closed) peer.ask(1, "/echo", 1);
        await until("an end or an answer", () => peer.closed || peer.frames.length > 0);
        for (const { opcode, payload } of peer.frames)
            if (opcode === OPCODE.text) assert.notEqual(JSON.parse(payload).data.status, undefined);
        assert.ok(!peer.frames.some(({ payload }) => payload.includes(0xff)), "echoed as it was");
    });

    test("binary messages are not frames", limit, async () => {
        const peer = await dial(registry);
        peer.write(frame(ok, { opcode: OPCODE.binary }));
        await sleep(50);
        assert.ok(!peer.frames.some(({ opcode }) => opcode === OPCODE.text), "it was answered");
    });

    test("bad paths are closed after the upgrade", limit, async () => {
        const PATHS = ["/", "/127.0.0.1/9", "/127.0.0.1/x/svc", "/127.0.0.1/65536/svc"];
        PATHS.push("//9/svc", "/127.0.0.1/0/svc", "/127.0.0.1/-1/svc", "/a/1.5/svc", "/a//svc");
        for (const path of PATHS)
            for (const object of [registry, provider]) {
                const peer = await raw(object).open(path);
                assert.equal(await peer.end(), 1005, path);
            }
    });

    test("garbage for a registry's routes is answered, not obeyed", limit, async () => {
        const urls = ["/-/find", "/-/declare", "/-/undeclare", "/-/subscribe", "/-/unsubscribe"];
        urls.push("/-/topic/update", "/-/env", "/-/env/variables");
        const garbage = [undefined, null, 1, "x", [], {}, { topic: 1 }, { topic: null }];
        garbage.push({ topic: "t".repeat(100000) }, { namespace: 7, exclude: "x" });
        garbage.push({ namespace: "x", exclude: [1, null, {}] }, { topic: { a: 1 } }, [[], {}]);
        const peer = await dial(registry);
        let id = 100;
        const asked = [];
        for (const url of urls)
            for (const data of garbage) {
                asked.push(id);
                peer.ask(id++, url, data);
            }
        for (const one of asked) {
            const { status } = await peer.response(one);
            assert.ok(status !== undefined, `${one}`);
        }
        await stillServes();
    });

    // --- floods ----------------------------------------------------------------------------

    test("a flood of declares meets a limit", limit, async () => {
        const before_ = process_.rss();
        const peer = await dial(registry);
        const payload = "x".repeat(1000);
        let id = 1;
        for (let i = 0; i < 20; i++) {
            const frames = [];
            for (let k = 0; k < 500; k++) {
                const data = { topic: `flood/${id}`, payload };
                frames.push(
                    frame(JSON.stringify({ id: id++, twoway: true, data: { url: "/-/declare", data }, mode: 0 })),
                );
            }
            peer.write(Buffer.concat(frames));
            await sleep(5);
        }
        const last = await peer.response(id - 1, 15000);
        assert.notEqual(last.status, 200, "10000 topics were taken");
        const grown = process_.rss() - before_;
        assert.ok(grown < 64 * MIB, `${grown} bytes`);
        peer.destroy();
        await until("the topics to go with their publisher", async () => {
            const next = await dial(registry);
            const { status } = await next.ask(1, "/-/declare", { topic: "one", payload: 1 }).response(1);
            next.destroy();
            return status === 200;
        });
    });

    test("requests nobody reads the answers of end the reading", limit, async () => {
        const peer = await dial(provider);
        const before_ = process_.rss();
        peer.socket.pause();
        const text = "y".repeat(10000);
        const one = frame(JSON.stringify({ id: 1, twoway: true, data: { url: "/echo", data: text }, mode: 0 }));
        for (let i = 0; i < 5000 && !peer.closed; i++) {
            peer.write(one);
            if (peer.socket.writableLength > 4 * MIB) await sleep(2);
            if (peer.socket.writableLength > 16 * MIB) break;
        }
        await sleep(300);
        const grown = process_.rss() - before_;
        assert.ok(grown < 48 * MIB, `${grown} bytes`);
        peer.destroy();
        await stillServes();
    });

    test("a consumer that stops reading: the producer's memory is flat", limit, async () => {
        const peer = await dial(provider);
        const before_ = process_.rss();
        peer.socket.pause();
        peer.text({
            id: 1,
            twoway: true,
            data: { url: "/stream/count", data: { count: 10000000 } },
            mode: 0,
            stream: true,
        });
        await sleep(1500);
        const grown = process_.rss() - before_;
        assert.ok(grown < 32 * MIB, `${grown} bytes`);
        peer.destroy();
        await stillServes();
    });

    test("connections that are half open are found out by heartbeats", limit, async () => {
        const other = process_.object("beats", "lua");
        await other.start("registry", undefined, {
            heartbeat_ms: 100,
            heartbeat_timeout_ms: 400,
            heartbeat_check_ms: 50,
        });
        const peer = await dial(other, "half");
        const probe = async () => {
            const asker = await dial(other, "asker");
            const { data } = await asker.ask(1, "/-/find", { namespace: "half" }).response(1);
            asker.destroy();
            return data;
        };
        assert.ok(await probe());
        // Raw answers no ping and sends no heartbeat.
        await until("it to be unlisted", async () => (await probe()) === undefined, 4000);
        await peer.end();
        await other.stop();
    });
});

describe("many connections", { skip: NO_LUA }, () => {
    test("5000 idle connections cost 24 KiB each or less, and are all found", { timeout: 60000 }, async () => {
        const COUNT = 5000;
        const peer = new MicroPeer("lua");
        const registry = peer.object("registry", "lua");
        await registry.start("registry");
        const opened = [];
        const raws = [];
        const open = async (from, count) => {
            for (let i = from; i < from + count; i += 250) {
                const group = Array.from({ length: 250 }, (_, k) => {
                    const made = new Raw(registry.port);
                    raws.push(made);
                    return made.open(`/10.0.0.1/${1 + i + k}/crowd-${(i + k) % 10}`);
                });
                opened.push(...(await Promise.all(group)));
            }
        };
        try {
            await open(0, 250); // warm
            const before_ = peer.rss();
            await open(250, COUNT);
            const each = (peer.rss() - before_) / COUNT / 1024;
            assert.ok(each <= 24, `${each.toFixed(1)} KiB`);
            for (const made of opened.slice(0, 100)) {
                const { data } = await made.ask(1, "/-/find", { namespace: "crowd-3" }).response(1);
                assert.equal((data.port - 1) % 10, 3);
            }
        } finally {
            for (const made of raws) made.destroy();
            await peer.end();
        }
    });

    test("connections past the limit are refused, the rest is served", limit, async () => {
        const peer = new MicroPeer("lua");
        const registry = peer.object("registry", "lua");
        await registry.start("registry", undefined, { max_connections: 10 });
        const raws = [];
        try {
            for (let i = 0; i < 10; i++) {
                const made = new Raw(registry.port);
                raws.push(made);
                await made.open(`/10.0.0.1/${1 + i}/svc`);
            }
            const late = new Raw(registry.port);
            raws.push(late);
            const refused = await late.open("/10.0.0.1/99/svc").then(
                () => late.end(3000).then(() => true),
                () => true,
            );
            assert.ok(refused);
            const { data } = await raws[0].ask(1, "/-/find", { namespace: "svc" }).response(1);
            assert.ok(data.port);
        } finally {
            for (const made of raws) made.destroy();
            await peer.end();
        }
    });
});
