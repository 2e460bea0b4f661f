// hub_wire.test.mjs - the bytes between an instance of ws-cluster and its NATS server, against the
// recording: a server is played, an instance is real.
//
//   ZNLRUN     the binary; default ../../build/znlrun. Without it the lua part is skipped.
//   ZNL_HUB    only these: "npm,lua"
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { describe, test } from "node:test";
import { KINDS, limit, stage, vectors } from "./hub_peers.mjs";
import { until } from "./scene.mjs";

/** Splits what clients say: [{verb, words, data}]. */
class Commands {
    #rest = Buffer.alloc(0);
    all = [];

    push(data) {
        this.#rest = Buffer.concat([this.#rest, data]);
        for (;;) {
            const end = this.#rest.indexOf("\r\n");
            if (end < 0) return;
            const line = this.#rest.toString("utf8", 0, end);
            const verb = line.split(" ", 1)[0];
            const words = line.split(" ").slice(1);
            let next = end + 2;
            let body;
            if (verb === "PUB") {
                const size = Number(words.at(-1));
                if (this.#rest.length < next + size + 2) return;
                body = this.#rest.toString("utf8", next, next + size);
                next += size + 2;
            }
            this.all.push(
                verb === "CONNECT" ? { verb, body: line.slice(8) } : { verb, words, body },
            );
            this.#rest = this.#rest.subarray(next);
        }
    }

    of(verb) {
        return this.all.filter((command) => command.verb === verb);
    }
}

const commandsOf = (text) => {
    const commands = new Commands();
    commands.push(Buffer.from(text));
    return commands.all;
};

/** What a command means to others: no numbers, no marks, and names as recorded. */
function meaning({ verb, words, body }, id) {
    if (verb === "SUB") return { verb, subject: words[0] };
    if (verb !== "PUB") return { verb };
    const { o, op, member, members, sessionId, ...more } = JSON.parse(body);
    const named = { o: o === id ? "instA" : o };
    const said = op ? { ...named, op, member, members, sessionId } : { ...named, ...more };
    return { verb, subject: words[0], said: JSON.parse(JSON.stringify(said)) };
}

/** Instances of znlrun have a subject each, for what they ask of each other. */
const isInbox = (subject) => /^mega\.ws\.main\.roster\./.test(subject);

/** A server that one instance connects to. */
class PlayedServer {
    commands = new Commands();

    async listen() {
        this.server = createServer((socket) => {
            this.socket = socket;
            socket.setNoDelay(true);
            socket.on("error", () => {});
            socket.on("data", (data) => {
                const pings = this.commands.of("PING").length;
                this.commands.push(data);
                socket.write("PONG\r\n".repeat(this.commands.of("PING").length - pings));
            });
            socket.write(INFO);
        });
        this.server.listen(0, "127.0.0.1");
        await once(this.server, "listening");
        this.url = `nats://127.0.0.1:${this.server.address().port}`;
        return this;
    }

    /** Sends a recorded text to the subscriptions it is for; `step` bytes at a time. */
    async play(text, { id, step = Infinity } = {}) {
        let out = "";
        for (const [, subject, payload] of text.matchAll(/MSG (\S+) \d+ \d+\r\n(.*)\r\n/g)) {
            const subscription = this.commands.of("SUB").find(({ words }) => words[0] === subject);
            const said = payload.replace('"o":"instA"', `"o":${JSON.stringify(id)}`);
            out += `MSG ${subject} ${subscription.words.at(-1)} ${Buffer.byteLength(said)}\r\n${said}\r\n`;
        }
        const bytes = Buffer.from(out);
        for (let at = 0; at < bytes.length; at += step) {
            this.socket.write(bytes.subarray(at, at + step));
            if (step !== Infinity) await new Promise(setImmediate);
        }
    }

    got(what, match) {
        return until(what, () => this.commands.all.find(match));
    }

    close() {
        this.socket?.destroy();
        this.server.close();
    }
}

const INFO =
    'INFO {"server_id":"played","server_name":"played","version":"2.9.10","proto":1,"go":"none",' +
    '"host":"127.0.0.1","port":4222,"headers":true,"max_payload":1048576,"client_id":5}\r\n';

const cases = vectors("nats-wire").cases;
const transcriptOf = (start) => cases.find((each) => each.case.startsWith(start)).transcript;
const sentIn = (start) =>
    transcriptOf(start)
        .filter(({ dir }) => dir === "instance->server")
        .flatMap(({ text }) => commandsOf(text));

for (const { kind, skip } of KINDS)
    test(`${kind}: connect, subscribe, publish, deliver, stop`, { skip, ...limit }, async () => {
        const server = await new PlayedServer().listen();
        try {
            await stage(
                async (s) => {
                    const a = await s.instance(kind, { app: "main", own_bus: true });
                    const isSync = ({ verb, body }) =>
                        verb === "PUB" && JSON.parse(body).op === "sync_request";
                    const id = JSON.parse((await server.got("the sync_request", isSync)).body).o;
                    const own = () =>
                        server.commands.all
                            .filter(
                                ({ verb, words }) =>
                                    !["PING", "PONG"].includes(verb) && !isInbox(words?.[0]),
                            )
                            .map((command) => meaning(command, id));
                    const recorded = sentIn("connect")
                        .filter(({ verb }) => verb !== "PING")
                        .map((command) => meaning(command, "instA"));
                    await until("the start", () => own().length >= recorded.length);
                    assert.deepEqual(own(), recorded);
                    const connect = JSON.parse(server.commands.of("CONNECT")[0].body);
                    const wanted = { verbose: false, pedantic: false, protocol: 1 };
                    if (kind === "lua") wanted.echo = false;
                    for (const [name, value] of Object.entries(wanted))
                        assert.equal(connect[name], value, name);

                    const client = await a.joined("u1 s1", { metadata: { nick: "한글" } });
                    const [add] = sentIn("rosterAdd").map((command) => meaning(command, "instA"));
                    await until("the add", () => own().length > recorded.length);
                    assert.deepEqual(own()[recorded.length], add);
                    // The echo, and an answer to the sync_request.
                    for (const start of ["connect", "rosterAdd", "broadcast and its echo"])
                        for (const { dir, text } of transcriptOf(start))
                            if (dir === "server->instance") await server.play(text, { id });
                    const [{ text: arriving }] = transcriptOf("broadcast and direct of instB");
                    await server.play(arriving, { id });
                    await client.got("said");
                    await client.got("dm");
                    // In the smallest pieces.
                    await server.play(arriving, { id, step: 1 });
                    assert.deepEqual(await client.got("said", 2), [
                        { text: "from B" },
                        { text: "from B" },
                    ]);
                    assert.deepEqual(await client.got("dm", 2), [
                        { text: "psst" },
                        { text: "psst" },
                    ]);

                    const [say] = sentIn("broadcast and its echo");
                    const { ns, message } = JSON.parse(say.body);
                    await a.call("broadcast", { ns, message });
                    const isBroadcast = ({ verb, words }) =>
                        verb === "PUB" && words[0].endsWith(".bcast");
                    const said = await server.got("the broadcast", isBroadcast);
                    assert.deepEqual(meaning(said, id), meaning(say, "instA"));

                    const before = server.commands.of("PONG").length;
                    server.socket.write("PING\r\n".repeat(3));
                    await until(
                        "three answers",
                        () => server.commands.of("PONG").length === before + 3,
                    );

                    const ended = once(server.socket, "close");
                    await a.call("stop");
                    await ended;
                    const { all } = server.commands;
                    const index = (match) => all.findLastIndex(match);
                    const remove = index(
                        ({ verb, body }) => verb === "PUB" && JSON.parse(body).op === "remove",
                    );
                    const [leave] = sentIn("graceful stop").map((command) =>
                        meaning(command, "instA"),
                    );
                    assert.deepEqual(meaning(all[remove], id), leave);
                    // Not lost in a buffer: the server has answered after it.
                    assert.ok(index(({ verb }) => verb === "PING") > remove);
                    const subjects = server.commands.of("SUB").map(({ words }) => words.at(-1));
                    const left = server.commands.of("UNSUB").map(({ words }) => words[0]);
                    assert.ok(left.every((sid) => subjects.includes(sid)));
                    assert.equal(all.filter(isBroadcast).length, 1);
                },
                { server: { url: server.url } },
            );
        } finally {
            server.close();
        }
    });

describe("the recorded text of a message", () => {
    test("is what the splitter of these tests reads", () => {
        const [connect, ping, ...rest] = sentIn("connect");
        assert.deepEqual([connect.verb, ping.verb], ["CONNECT", "PING"]);
        assert.deepEqual(
            rest.map(({ verb }) => verb),
            ["SUB", "SUB", "SUB", "PUB", "PUB"],
        );
        assert.equal(JSON.parse(rest[3].body).op, "sync_request");
    });
});
