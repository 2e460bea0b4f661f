// cluster_replay.test.mjs - every recorded exchange of cluster-client, replayed over sockets: a leader is
// played its followers, a follower its leader. npm is the package itself, which proves the player; lua is
// znlrun.
//
//   ZNLRUN        the binary; default ../../build/znlrun. Without it the lua part is skipped.
//   ZNL_CLUSTER   only these: "npm,lua"
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { freePort, KINDS, stage, vectors } from "./cluster_peers.mjs";
import { FollowerPlayer, LeaderPlayer, meaning } from "./cluster_player.mjs";
import { packet, parse, RawFollower, RawLeader } from "./cluster_raw.mjs";
import { decode, encode } from "./cluster_transcode.mjs";
import { pack, unpack } from "./cluster_values.mjs";
import { sleep, until } from "./scene.mjs";

const limit = { timeout: 60000 };
const evaluate = (text) => new Function("Buffer", `return (${text})`)(Buffer);

/** The exchanges of a capture, one after the other. */
const casesOf = (name) => {
    const capture = vectors(name);
    return capture.cases ?? [capture];
};

// --- the control: the tools of these tests against the tables -------------------------------

describe("cluster_raw.mjs agrees with the tables", () => {
    // Values that these tests cannot make, and one that JavaScript loses when it reads.
    const UNMADE = ["bigint becomes null", "function becomes null", "symbol becomes null"];
    const LOST = ["__proto__ key"];

    test("values", () => {
        const { cases, decode_only } = vectors("transcode");
        const count = { written: 0, read: 0 };
        for (const c of cases) {
            if (c.encode_error) continue; // no text, and nothing to make it of
            if (!UNMADE.includes(c.case)) {
                assert.equal(encode(unpack(c.value)).toString("hex"), c.hex, c.case);
                count.written++;
            }
            assert.deepEqual(pack(decode(Buffer.from(c.hex, "hex"))), c.decoded, c.case);
            count.read++;
        }
        for (const c of decode_only) {
            if (LOST.includes(c.case)) continue;
            const bytes = Buffer.from(c.hex, "hex");
            if (c.decode_error) assert.throws(() => decode(bytes), c.case);
            else assert.deepEqual(pack(decode(bytes)), c.decoded, c.case);
            count.read++;
        }
        assert.deepEqual(count, { written: 70, read: 73 + 21 });
    });

    test("packets", () => {
        const { packets } = vectors("packets");
        for (const { hex } of packets) {
            const { kind, id, timeout, connObj, data } = parse(Buffer.from(hex, "hex"));
            const type = kind === "response" ? 1 : 0;
            assert.equal(packet({ type, id, timeout, connObj, data }).toString("hex"), hex);
        }
        assert.equal(packets.length, 86);
    });
});

// --- a leader is played its followers --------------------------------------------------------

/** Where a leader of znlrun is better than the recorded one: the answer it gives instead. */
const LEADER_DEPARTS = {
    // No callback is appended to the arguments.
    "the leader appends one argument (callback slot): argc of 2 sent arguments is 3": (
        recorded,
        heard,
    ) => {
        if (recorded.connObj.type !== "invoke_result") return false;
        assert.deepEqual(meaning(heard), 2);
        return true;
    },
};

describe("leaders", { concurrency: 8 }, () => {
    for (const { kind, skip } of KINDS) {
        const ours = kind === "lua";

        /** A leader, and one who plays followers to it. */
        const led = (title, config, body) =>
            test(`${kind}: ${title}`, { skip, ...limit }, () =>
                stage(async (s) => {
                    const port = await freePort();
                    const leader = s.client(kind);
                    await leader.start({ port, ...config });
                    const player = (how) => {
                        const made = new FollowerPlayer(port, how);
                        s.later({ close: () => made.close_() });
                        return made;
                    };
                    await body({ s, leader, player, port });
                }),
            );

        const replayed = (name, config = {}) =>
            led(name, config, async ({ player }) => {
                const playing = player();
                await playing.play(vectors(name).exchange);
                await playing.settle();
            });

        replayed("register-ok");
        // The connection that is left after the last refusal closes too; it is in no record.
        led(
            "register-refused",
            { demo: { ready_error: true }, heartbeat_ms: 300, wait: false },
            ({ player }) => player().play(vectors("register-refused").exchange),
        );
        led("register-unknown-channel", { name: "Other" }, async ({ s, leader, player, port }) => {
            const { exchange } = vectors("register-unknown-channel");
            const playing = player();
            const other = s.later(new RawFollower(port));
            await other.register("Other");
            for (const item of exchange) {
                await playing.step(item);
                assert.ok((await other.beats()) && (await other.beats())); // turns of the leader's loop
            }
            const line = await playing.line(exchange.at(-1).conn);
            // Once the channel is led here the same connection can have it. A leader of znlrun has kept
            // what was asked before.
            await leader.peer.client("late").start({ port });
            await line.register();
            if (ours)
                for (const { decoded } of exchange.filter(({ hex }) => hex))
                    assert.equal(decode((await line.response(decoded.id)).data).success, true);
            assert.deepEqual(playing.leftovers(), []);
        });
        replayed("register-late-ready", { demo: { ready_after_ms: 400 }, wait: false });
        replayed("heartbeat");
        // Twice the recorded interval: the call it is about takes most of three.
        led("heartbeat-flow-control", { heartbeat_ms: 2000 }, ({ player }) =>
            player().play(vectors("heartbeat-flow-control").exchange),
        );

        // The values are those that earlier captures left.
        led("invokes and subscriptions", {}, async ({ player }) => {
            const names = [
                "invoke-args",
                "invoke-results",
                "invoke-error",
                "invoke-oneway",
                "subscribe",
            ];
            const playing = player();
            for (const name of names)
                for (const recorded of casesOf(name)) {
                    playing.how.departs = ours ? LEADER_DEPARTS[recorded.case] : undefined;
                    await playing.play(recorded.exchange).catch((error) => {
                        error.message = `${name}, ${recorded.case}: ${error.message}`;
                        throw error;
                    });
                    if (ours && recorded.call?.args_js === '["string"]') {
                        const line = await playing.line(2);
                        const id = recorded.exchange[0].decoded.id;
                        const { message, name: errorName } = decode((await line.response(id)).data);
                        assert.deepEqual([message, errorName], ["just a string", "Error"]);
                    }
                    await playing.settle();
                }
        });

        led("invoke-timeout", {}, async ({ player }) => {
            const playing = player();
            await playing.play(vectors("invoke-timeout").exchange);
            const line = await playing.line(2);
            // Longer than the method takes: its answer would have come before this one's.
            assert.equal((await line.invoke("slow", [900])).value, "slept 900");
            await playing.settle();
        });

        led("subscribe-not-broadcast", { broadcast: false }, async ({ s, leader, port }) => {
            const lines = [new RawFollower(port), new RawFollower(port)].map((line) =>
                s.later(line),
            );
            for (const line of lines) {
                await line.register();
                line.subscribe({ dataId: "q" });
                assert.ok(await line.beats());
            }
            const COUNT = 40;
            for (let i = 0; i < COUNT; i++) await leader.publish("q", i);
            const heard = () => lines.flatMap(({ packets }) => packets);
            await until("every value", () => heard().length >= COUNT);
            for (const line of lines) assert.ok(await line.beats());
            const seen = heard().map(meaning);
            assert.deepEqual(
                seen.toSorted((a, b) => a - b),
                Array.from({ length: COUNT }, (_, i) => i),
            );
            for (const { packets } of lines) assert.ok(packets.length > 0, "chance left one out");
        });

        led("close-by-follower", {}, async ({ s, player, port }) => {
            const playing = player();
            await playing.line(2);
            await playing.play(vectors("close-by-follower").exchange);
            await playing.lines.get(2).end();
            const other = s.later(new RawFollower(port));
            await other.register();
            assert.equal((await other.invoke("ping")).value, "pong");
        });

        led("close-by-leader", {}, async ({ leader, player }) => {
            const playing = player();
            const [invoke, fin] = vectors("close-by-leader").exchange;
            await playing.step(invoke);
            assert.ok(await playing.lines.get(2).beats());
            await leader.call("close");
            await playing.step(fin);
            assert.deepEqual(playing.leftovers(), []);
        });
    }
});

// --- a follower is played its leader ---------------------------------------------------------

/** Names of failures the package has, and our codes for them. */
const CODES = { ResponseTimeoutError: "TIMEOUT", SocketCloseError: "CLOSED" };

function sameOutcome(kind, outcome, recorded, what) {
    if ("ok" in recorded) {
        assert.ok(!outcome.error, `${what}: ${outcome.error}`);
        assert.deepEqual(pack(outcome.ok), recorded.ok, what);
        return;
    }
    const { error } = outcome;
    const { name, message, code } = recorded.err;
    assert.ok(error, `${what} came to ${JSON.stringify(outcome.ok)}`);
    if (kind === "lua" && CODES[name]) {
        assert.equal(error.code, CODES[name], what);
        return;
    }
    assert.equal(error.errorName, name, what);
    if (CODES[name]) return;
    assert.equal(error.message, message, what);
    if (code?.$ !== "undefined") assert.equal(error.code, code, what);
}

const OPS = {
    oneway: (client, { method, args }) => client.oneway(method, ...evaluate(args)),
    publish: (client, { reg }) => client.call("publish", { reg: pack(evaluate(reg)) }),
    subscribe: (client, { reg, l }) => client.subscribe(evaluate(reg), l),
    unSubscribe: (client, { reg, l }) => client.unsubscribe(evaluate(reg), l),
};

describe("followers", { concurrency: 8 }, () => {
    for (const { kind, skip } of KINDS) {
        /** A raw leader, and a follower that is told to start. */
        const following = (title, config, body) =>
            test(`${kind}: ${title}`, { skip, ...limit }, () =>
                stage(async (s) => {
                    const port = await freePort();
                    const leader = s.later(await new RawLeader().listen(port));
                    const client = s.client(kind);
                    const started = client.start({ port, ...config });
                    started.catch(() => {}); // what it comes to is looked at later
                    await body({ leader, client, started });
                }),
            );

        /** From the connection on that has registered: connection 2 of the records. */
        const joined = (title, config, body) =>
            following(title, config, async ({ leader, client, started }) => {
                const line = await leader.accept();
                await started;
                const playing = new LeaderPlayer(leader, []);
                playing.begin(2, line);
                await body({ leader, client, playing, line });
                assert.deepEqual(playing.leftovers(), []);
            });

        const replayed = (name, config, how) =>
            following(name, config, async ({ leader, started }) => {
                const { exchange } = vectors(name);
                const playing = new LeaderPlayer(leader, exchange, how);
                await playing.play(exchange);
                // A follower of znlrun has asked more often.
                if (kind === "lua") RawLeader.acceptAll(leader.lines.at(-1));
                assert.deepEqual(await started, { leader: false });
                assert.deepEqual(playing.leftovers(), []);
            });

        replayed("register-ok", { leader: false });
        following("register-refused", {}, async ({ leader, started }) => {
            const { exchange, follower_ready } = vectors("register-refused");
            await new LeaderPlayer(leader, exchange).play(exchange);
            await assert.rejects(started, (error) => {
                assert.ok(error.message.includes(follower_ready.error.message), error.message);
                return true;
            });
        });
        following("register-unknown-channel", {}, async ({ leader }) => {
            const { exchange } = vectors("register-unknown-channel");
            await new LeaderPlayer(leader, exchange).play(exchange);
        });
        replayed("register-late-ready", {}, { paced: true });

        const HEARTBEAT = { heartbeat_ms: 1000 };
        joined("heartbeat", HEARTBEAT, async ({ playing }) => {
            await playing.play(vectors("heartbeat").exchange);
        });
        joined("heartbeat-flow-control", HEARTBEAT, async ({ client, playing, line }) => {
            // A follower of znlrun sends heartbeats during a call too.
            const beats = [];
            const answerBeats = () => {
                for (const beat of line.packets.filter(
                    ({ connObj }) => connObj.type === "heartbeat",
                )) {
                    line.packets.splice(line.packets.indexOf(beat), 1);
                    line.answer(beat, { type: "heartbeat_res" });
                    beats.push(beat);
                }
            };
            const called = client.invoke("slow", 2600);
            const [invoke, answer, ...rest] = vectors("heartbeat-flow-control").exchange;
            await playing.step(invoke);
            const until_ = Date.now() + answer.at_ms;
            while (Date.now() < until_) {
                await sleep(20);
                answerBeats();
            }
            assert.equal(beats.length > 0, kind === "lua");
            await playing.step(answer);
            assert.equal(await called, "slept 2600");
            await playing.play(rest);
            await client.event("ready", ({ at }) => at >= client.all("lost")[0]?.at);
        });

        joined("invokes", {}, async ({ client, playing }) => {
            for (const name of ["invoke-args", "invoke-results", "invoke-error"])
                for (const { case: title, call, exchange, follower_result } of casesOf(name)) {
                    const called = client.invoke(call.method, ...evaluate(call.args_js)).then(
                        (ok) => ({ ok }),
                        (error) => ({ error }),
                    );
                    await playing.play(exchange).catch((error) => {
                        error.message = `${name}, ${title}: ${error.message}`;
                        throw error;
                    });
                    sameOutcome(kind, await called, follower_result, `${name}, ${title}`);
                }
        });

        joined("invoke-timeout", { response_timeout_ms: 300 }, async ({ client, playing }) => {
            const { exchange, follower_result } = vectors("invoke-timeout");
            const called = client.invoke("slow", 600).catch((error) => ({ error }));
            await playing.play(exchange);
            sameOutcome(kind, await called, follower_result, "slow");
        });

        joined("oneway calls and subscriptions", {}, async ({ client, playing }) => {
            for (const name of ["invoke-oneway", "subscribe"])
                for (const { case: title, op, exchange, delivered_to_listeners = [] } of casesOf(
                    name,
                )) {
                    // znlrun knows what is subscribed: a packet would be taken for that of the next case.
                    if (kind === "lua" && title.includes("was never subscribed")) {
                        await OPS[op.op](client, op);
                        continue;
                    }
                    const before = client.all("value").length;
                    const doing = OPS[op.op](client, op);
                    await playing.play(exchange);
                    await doing;
                    const fresh = () => client.all("value").slice(before);
                    await until(title, () => fresh().length >= delivered_to_listeners.length);
                    assert.deepEqual(
                        fresh().map(({ label, value }) => ({ listener: label, value })),
                        delivered_to_listeners,
                        title,
                    );
                }
        });

        joined("subscribe-not-broadcast", {}, async ({ client, playing, line }) => {
            const { exchange } = vectors("subscribe-not-broadcast");
            await client.subscribe({ dataId: "q" }, "q");
            await line.request("subscribe");
            const part = exchange.filter(({ conn }) => conn === 4);
            playing.begin(4, line);
            await playing.play(part);
            const pushed = part.filter(({ dir }) => dir === "leader->follower");
            const values = pushed.map(({ hex }) => decode(parse(Buffer.from(hex, "hex")).data));
            assert.deepEqual(await client.got("q", values.length), values);
            playing.lines.delete(4);
        });

        joined("close-by-follower", {}, async ({ client, playing }) => {
            const closing = client.call("close");
            await playing.play(vectors("close-by-follower").exchange);
            await closing;
        });

        joined("close-by-leader", {}, async ({ client, playing }) => {
            const { exchange, follower_pending_invoke } = vectors("close-by-leader");
            const called = client.invoke("slow", 2000).catch((error) => ({ error }));
            await playing.play(exchange);
            sameOutcome(kind, await called, follower_pending_invoke, "slow");
            await playing.leader.accept(1);
            await client.event("ready", ({ at }) => at >= client.all("lost")[0]?.at);
        });
    }
});
