// sockets.test.mjs - bare sockets of znl.core with either engine against sockets of libzmq as others use it: the npm
// package zeromq, and pyzmq (Debian: python3-zmq). What is sent comes back, from sockets_peer.lua.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import * as zmq from "zeromq";
import { freeEndpoint, SKIP_LUA, until, ZNLRUN } from "./scene.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const WAIT_MS = 60000;
const SIZES = [0, 1, 2, 254, 255, 256, 257, 65535, 65536, 65537, 1024 * 1024];

/** A process of which lines are read. */
class Program {
    lines = [];
    errors = "";

    constructor(file, args) {
        this.process = spawn(file, args, { stdio: ["ignore", "pipe", "pipe"] });
        this.process.stderr.on("data", (data) => {
            this.errors += data;
        });
        createInterface({ input: this.process.stdout }).on("line", (line) => this.lines.push(line));
        this.ended = new Promise((resolve) =>
            this.process.on("close", (code, signal) => {
                this.exit = { code, signal };
                resolve(this.exit);
            }),
        );
    }

    line(match = () => true) {
        return until(
            "a line",
            () => {
                const found = this.lines.find(match);
                if (found === undefined && this.exit)
                    throw new Error(`it ended (${this.exit.code ?? this.exit.signal}): ${this.errors}`);
                return found;
            },
            WAIT_MS,
        );
    }

    kill() {
        if (!this.exit) this.process.kill("SIGKILL");
        return this.ended;
    }
}

const python = ["python3", "/usr/bin/python3"].find(
    (file) => spawnSync(file, ["-c", "import zmq"]).status === 0,
);

/** Runs `body` with helpers that end every process and socket it made. */
async function scene(engine, body) {
    const programs = [];
    const sockets = [];
    const s = {
        program(file, ...args) {
            const program = new Program(file, args);
            programs.push(program);
            return program;
        },
        /** A bare socket of znl.core that says everything back. */
        lua(role, endpoint) {
            return s.program(ZNLRUN, join(here, "sockets_peer.lua"), role, engine, endpoint);
        },
        python(...args) {
            assert.ok(python, "python3 with zmq is missing: apt-get install python3-zmq");
            return s.program(python, join(here, "sockets.py"), ...args);
        },
        socket(type, options) {
            const socket = new zmq[type]({
                linger: 0,
                receiveTimeout: WAIT_MS,
                sendTimeout: WAIT_MS,
                ...options,
            });
            sockets.push(socket);
            return socket;
        },
    };
    try {
        await body(s);
        for (const { errors } of programs)
            assert.ok(!/panic|assert|Sanitizer|stack traceback/i.test(errors), errors);
    } finally {
        for (const socket of sockets) if (!socket.closed) socket.close();
        await Promise.all(programs.map((program) => program.kill()));
    }
}

function pattern(size, seed) {
    const bytes = Buffer.alloc(size);
    for (let i = 0; i < size; i++) bytes[i] = (seed * 31 + i * 7 + (i >> 8)) & 255;
    return bytes;
}

function* messages() {
    for (const size of SIZES) {
        yield [pattern(size, size)];
        yield [Buffer.from("before"), pattern(size, size), Buffer.alloc(0), Buffer.from("after")];
    }
    yield Array.from({ length: 500 }, () => Buffer.from("frame"));
    for (let number = 0; number < 2000; number++)
        yield [Buffer.from("number"), Buffer.from(String(number))];
}

const isHere = (frames) => frames.length === 1 && frames[0].equals(Buffer.from("here"));

/** Everything comes back, in order; `head` are the frames before each message. */
async function exchange(socket, head = []) {
    const everything = [...messages()];
    for (let start = 0; start < everything.length; start += 50) {
        const window = everything.slice(start, start + 50);
        for (const message of window) await socket.send([...head, ...message]);
        for (const message of window) {
            let got = await socket.receive();
            while (isHere(got.slice(head.length))) got = await socket.receive();
            assert.equal(got.length, head.length + message.length);
            for (const [i, frame] of [...head, ...message].entries())
                assert.ok(got[i].equals(Buffer.from(frame)), `frame ${i} differs`);
        }
    }
}

for (const engine of ["zmtp", "libzmq"])
    describe(`engine ${engine}`, { skip: SKIP_LUA }, () => {
        test("DEALER sockets of the npm package and our ROUTER", () =>
            scene(engine, async (s) => {
                const endpoint = await s.lua("router", "tcp://127.0.0.1:*").line();
                const names = ["a", "n".repeat(255), "ä-ß", undefined];
                for (const routingId of names) {
                    const socket = s.socket("Dealer", routingId ? { routingId } : {});
                    socket.connect(endpoint);
                    await exchange(socket);
                }
            }));

        test("a DEALER of the npm package comes back to our ROUTER", () =>
            scene(engine, async (s) => {
                const endpoint = await freeEndpoint();
                const socket = s.socket("Dealer", { routingId: "a", immediate: true });
                socket.connect(endpoint);
                for (let round = 0; round < 3; round++) {
                    const program = s.lua("router", endpoint);
                    await program.line();
                    // What was sent while the connection before was ending may be lost.
                    let answered = false;
                    const asking = (async () => {
                        while (!answered) {
                            await socket.send(`round ${round}`);
                            await new Promise((resolve) => setTimeout(resolve, 20));
                        }
                    })();
                    for (;;) {
                        const [frame] = await socket.receive();
                        if (frame.toString() === `round ${round}`) break;
                    }
                    answered = true;
                    await asking;
                    await program.kill();
                }
            }));

        test("a ROUTER of the npm package and our DEALER, which comes back", () =>
            scene(engine, async (s) => {
                let endpoint = "tcp://127.0.0.1:*";
                for (let round = 0; round < 2; round++) {
                    const socket = s.socket("Router", { mandatory: true, handover: true });
                    await until(
                        "the address to be free",
                        () => socket.bind(endpoint).then(() => true, () => false),
                        WAIT_MS,
                    );
                    endpoint = socket.lastEndpoint;
                    if (round === 0) s.lua("dealer", endpoint);
                    const [name, word] = await socket.receive();
                    assert.equal(`${name} ${word}`, "lua here");
                    await exchange(socket, [name]);
                    await socket.unbind(endpoint);
                    socket.close();
                }
            }));

        test("DEALER sockets of pyzmq and our ROUTER", () =>
            scene(engine, async (s) => {
                const endpoint = await s.lua("router", "tcp://127.0.0.1:*").line();
                await s.python("dealer", endpoint).line((line) => line === "ok");
            }));

        test("a ROUTER of pyzmq and our DEALER, which comes back", () =>
            scene(engine, async (s) => {
                const program = s.python("router");
                s.lua("dealer", await program.line());
                await program.line((line) => line === "ok");
            }));
    });
