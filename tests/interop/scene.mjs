// scene.mjs - what the interop tests share: peers as processes driven by JSON lines, the pairs of
// implementations, and helpers that wait for conditions. interop.test.mjs describes the settings.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import * as zmq from "zeromq";
import * as znl from "./znl.mjs";

const here = dirname(fileURLToPath(import.meta.url));
export const ZNLRUN = process.env.ZNLRUN ?? join(here, "../../build/znlrun");
export const REAL = process.env.ZNL_REAL;
export const VECTORS = process.env.ZNL_VECTORS ?? join(here, "../vectors/znl");
export const KEY = "shared-secret-01";
export const KEYS = znl.deriveKeys(KEY);
// Quick to notice a peer, slow to give one up: machines that run tests are busy.
export const MS = { heartbeat_ms: 150, heartbeat_timeout_ms: 6000 };
export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
export const hex = (text) => Buffer.from(text).toString("hex");
export const vectors = (name) => JSON.parse(readFileSync(join(VECTORS, `${name}.json`)));

// --- peers as processes --------------------------------------------------------------------

// What differs between the implementations without being wrong.
export const REAL_VERSION =
    REAL && JSON.parse(readFileSync(join(dirname(REAL), "package.json"))).version;
export const TRAITS = {
    lua: {
        flavours: ["znlrun"],
        concurrent: true,
        strict: true,
        codes: true,
        boundedStop: true,
        rejects: true,
        services: true,
        offline: true,
        ghosts: false,
    },
    js: {
        flavours: ["0.7.4", "0.6.0"],
        concurrent: false,
        strict: false,
        codes: true,
        boundedStop: true,
        rejects: true,
        services: true,
        offline: true,
        ghosts: false,
    },
    real: {
        flavours: [REAL_VERSION],
        concurrent: false,
        strict: false,
        codes: false,
        boundedStop: REAL_VERSION === "0.6.0",
        rejects: true,
        services: false,
        offline: false,
        ghosts: true,
    },
};

// Below the range from which the system gives ports to whoever asks for any: between looking and
// binding, and while a master is away, nobody gets one by chance. Each process counts on from a
// place of its own.
let lastPort = (process.pid * 199) % 20000;
/** A free port of the loopback interface, never the same twice. */
export async function freeEndpoint() {
    for (;;) {
        lastPort = (lastPort + 1) % 20000;
        const port = 10000 + lastPort;
        const server = createServer();
        const free = await new Promise((resolve) => {
            server.once("error", () => resolve(false));
            server.listen(port, "127.0.0.1", () => resolve(true));
        });
        if (!free) continue;
        await new Promise((resolve) => server.close(resolve));
        return `tcp://127.0.0.1:${port}`;
    }
}

/** Waits until `probe` returns something true. */
export async function until(what, probe, ms = 25000) {
    const deadline = Date.now() + ms;
    for (;;) {
        const value = await probe();
        if (value) return value;
        if (Date.now() > deadline) throw new Error(`waited ${ms} ms for ${what}`);
        await sleep(10);
    }
}

export class Peer {
    /** `script`: the driven program without its ending; `env`: on top of ours; `network`: the name of
     * the network namespace it lives in. */
    constructor(kind, { script = "peer", env: more = {}, network } = {}) {
        this.kind = kind;
        this.traits = TRAITS[kind];
        this.events = [];
        this.waiting = new Map();
        this.next = 1;
        this.stderr = "";
        const env = { ...process.env, ...more };
        delete env.ZNL_REAL;
        if (kind === "real") env.ZNL_REAL = REAL;
        const [file, args] =
            kind === "lua"
                ? [ZNLRUN, [join(here, `${script}.lua`)]]
                : [process.execPath, [join(here, `${script}.mjs`)]];
        const command = network ? ["ip", "netns", "exec", network, file, ...args] : [file, ...args];
        this.process = spawn(command[0], command.slice(1), { env, stdio: ["pipe", "pipe", "pipe"] });
        this.process.stdin.on("error", () => {});
        this.process.stderr.on("data", (data) => {
            this.stderr += data;
        });
        this.ended = new Promise((resolve) =>
            this.process.on("close", (code, signal) => {
                this.exit = { code, signal };
                for (const { reject } of this.waiting.values())
                    reject(new Error(`${kind} ended (${code ?? signal}): ${this.stderr}`));
                this.waiting.clear();
                resolve(this.exit);
            }),
        );
        createInterface({ input: this.process.stdout }).on("line", (line) => this.#line(line));
    }

    #line(line) {
        let object;
        try {
            object = JSON.parse(line);
        } catch {
            this.stderr += `${line}\n`;
            return;
        }
        if (object.ev !== undefined) {
            this.events.push({ ...object, at: Date.now() });
            return;
        }
        const { resolve, reject } = this.waiting.get(object.re) ?? {};
        this.waiting.delete(object.re);
        if (object.ok) resolve?.(object.value);
        else
            reject?.(
                Object.assign(new Error(object.error), {
                    code: object.code,
                    errorName: object.name,
                }),
            );
    }

    call(cmd, fields = {}) {
        if (this.exit)
            return Promise.reject(new Error(`${this.kind} has ended: ${this.stderr}`));
        const n = this.next++;
        return new Promise((resolve, reject) => {
            this.waiting.set(n, { resolve, reject });
            this.process.stdin.write(`${JSON.stringify({ n, cmd, ...fields })}\n`);
        });
    }

    all(ev, match = () => true) {
        return this.events.filter((event) => event.ev === ev && match(event));
    }

    event(ev, match, ms) {
        return until(
            `event ${ev} of ${this.kind} (has ${this.events.slice(-5).map((e) => e.ev)})`,
            () => this.all(ev, match)[0],
            ms,
        );
    }

    forget() {
        this.events.length = 0;
    }

    async slaves() {
        const ids = await this.call("slaves");
        return Array.isArray(ids) ? ids : []; // an empty table of Lua reads as {}
    }

    request(fields) {
        return this.call("request", { timeout_ms: 20000, ...fields });
    }

    /** Resident bytes. */
    rss() {
        const status = readFileSync(`/proc/${this.process.pid}/status`);
        return Number(/VmRSS:\s+(\d+)/.exec(status)[1]) * 1024;
    }

    kill(signal = "SIGKILL") {
        this.process.kill(signal);
        return this.ended;
    }
}

/** Runs `body` with helpers that end every process and socket it made. */
export async function scene(body) {
    const peers = [];
    const sockets = [];
    const s = {
        async peer(kind, config) {
            const peer = new Peer(kind);
            peers.push(peer);
            peer.config = { ...MS, ...config };
            if (kind === "js" && peer.config.flavour === undefined)
                peer.config.flavour = "0.7.4";
            await peer.call("start", peer.config);
            return peer;
        },
        raw(type, options) {
            const socket = new zmq[type]({ linger: 0, receiveTimeout: 3000, ...options });
            sockets.push(socket);
            return socket;
        },
    };
    try {
        await body(s);
        for (const peer of peers) {
            assert.deepEqual(peer.all("unhandled"), [], `${peer.kind}: unhandled rejection`);
            if (peer.exit) continue;
            assert.ok(
                !/panic|assert|Sanitizer|stack traceback/i.test(
                    peer.expectTrouble ? "" : peer.stderr,
                ),
                `${peer.kind}: ${peer.stderr}`,
            );
        }
    } catch (error) {
        for (const peer of peers)
            if (peer.stderr)
                error.message += `\n--- ${peer.kind} stderr:\n${peer.stderr.slice(-2000)}`;
        throw error;
    } finally {
        for (const socket of sockets) socket.close();
        await Promise.all(peers.map((peer) => peer.exit ?? peer.kill()));
    }
}

export const masterOptions = (endpoint, more) => ({
    role: "master",
    id: "master-1",
    endpoint,
    ...more,
});
export const slaveOptions = (endpoint, more) => ({ role: "slave", id: "slave-1", endpoint, ...more });

export const isOnline = (master, slave, id = "slave-1") =>
    until(
        `${id} and its master to see each other`,
        async () =>
            (await master.slaves()).includes(id) && (await slave.call("online")) === true,
    );

/** A master and a slave that see each other. `more` may be one table or one for each. */
export async function couple(s, pair, more = {}, moreSlave = more) {
    const endpoint = await freeEndpoint();
    const master = await s.peer(
        pair.master,
        masterOptions(endpoint, { ...pair.flavours.master, ...more }),
    );
    const slave = await s.peer(
        pair.slave,
        slaveOptions(endpoint, { ...pair.flavours.slave, ...moreSlave }),
    );
    await isOnline(master, slave);
    return { endpoint, master, slave };
}

/** Expects a command to fail; checks the code where the implementation has codes. */
export async function fails(peer, promise, codes) {
    let value;
    try {
        value = await promise;
    } catch (error) {
        if (peer.traits.codes)
            assert.ok([codes].flat().includes(error.code), `${error.code}: ${error.message}`);
        return error;
    }
    return assert.fail(`expected ${codes}, got ${JSON.stringify(value)}`);
}

// --- the pairs -----------------------------------------------------------------------------

export const haveLua = existsSync(ZNLRUN);
const wantedPairs = (
    process.env.ZNL_PAIRS ??
    `js/lua,lua/js,lua/lua,js/js${REAL ? ",js/real,real/js,lua/real,real/lua" : ""}`
).split(",");
export const SKIP_LUA = haveLua ? false : `no ${ZNLRUN}`;

export const PAIRS = wantedPairs.map((name) => {
    const [master, slave] = name.split("/");
    const skip = name.includes("lua")
        ? SKIP_LUA
        : name.includes("real") && !REAL
          ? "no ZNL_REAL"
          : false;
    return { name, master, slave, skip };
});

/** The pair once per flavour of its JavaScript side; both sides of js/js have the same. */
export function flavoursOf(pair) {
    const kinds = [pair.master, pair.slave];
    const fixed = kinds.includes("real") ? REAL_VERSION : undefined;
    const list = fixed ? [fixed] : kinds.includes("js") ? TRAITS.js.flavours : ["0.7.4"];
    return list.map((flavour) => ({
        ...pair,
        flavour,
        label: kinds.some((kind) => kind !== "lua") ? `${pair.name} ${flavour}` : pair.name,
        flavours: {
            master: pair.master === "js" ? { flavour } : {},
            slave: pair.slave === "js" ? { flavour } : {},
        },
        push: !kinds.some((kind) => kind !== "lua") || flavour !== "0.6.0",
    }));
}

export const MODES = {
    plain: { both: {} },
    "encrypted, digest off": { both: { encrypted: true, auth_key: KEY, digest: false } },
    "encrypted, digest on": { both: { encrypted: true, auth_key: KEY, digest: true } },
    "encrypted, keys per slave": {
        master: {
            encrypted: true,
            auth_keys: { "slave-1": "key of slave-1", "slave-2": "other" },
            digest: false,
        },
        slave: { encrypted: true, auth_key: "key of slave-1", digest: false },
    },
    "encrypted, own salt": {
        both: { encrypted: true, auth_key: "ключ ☃", kdf_salt: "my salt", digest: false },
        since: "0.7.4",
    },
};

/** Both sides announce calls: then errors have answers. */
export const bothCall = (pair) => pair.master === "lua" && pair.slave === "lua";

export const concurrency = 4;
export const limit = { timeout: 120000 };

export function everyPair(title, body, options = {}) {
    describe(title, { concurrency }, () => {
        for (const pair of PAIRS) {
            const [first] = flavoursOf(pair);
            const skip = pair.skip || options.skip?.(first);
            test(first.label, { skip, ...limit }, () => scene((s) => body(s, first)));
        }
    });
}

export const ENC = MODES["encrypted, digest off"].both;
export const FAST = { ...ENC, heartbeat_ms: 200, heartbeat_timeout_ms: 1500 };
