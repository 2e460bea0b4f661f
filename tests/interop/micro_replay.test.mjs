// micro_replay.test.mjs - every recorded transcript of the micro protocol, replayed through real
// sockets: each role that took part is tested in turn, as server and as client, while
// micro_stage.mjs plays the others. js is micro.mjs, which proves the stage; lua is znlrun.
//
//   ZNLRUN        the binary; default ../../build/znlrun. Without it the lua part is skipped.
//   ZNL_KINDS     only these: "v1,v2,lua"; either of the first two means js
//   ZNL_MICRO     the vectors; default ../vectors/micro
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { Breaker } from "./micro_breaker.mjs";
import { parseKey, signature } from "./micro_registry.mjs";
import { DEPARTURES } from "./micro_departures.mjs";
import { Routes } from "./micro_routes.mjs";
import { SCENES } from "./micro_scenes.mjs";
import { Stage } from "./micro_stage.mjs";
import { KINDS as WANTED, MicroPeer, QUIET } from "./micro_peers.mjs";
import { SKIP_LUA } from "./scene.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const VECTORS = process.env.ZNL_MICRO ?? join(here, "../vectors/micro");
const KINDS = [...new Set(WANTED.map((kind) => (kind === "lua" ? "lua" : "js")))];
const read = (file) => JSON.parse(readFileSync(join(VECTORS, file)));
const NAMESPACES = { provider: "svc", provider2: "svc" };

// --- the control: the tables against the pure parts of the JavaScript peer ------------------

describe("micro.mjs agrees with the tables", () => {
    const value = (text) => (text === "__undefined__" ? undefined : text);

    test("signatures", () => {
        for (const c of read("signatures.json").cases)
            assert.equal(signature(value(c.payload)), c.signature);
    });

    test("address keys", () => {
        for (const c of read("address-keys.json").cases)
            assert.deepEqual(parseKey(c.key) ?? null, c.address, c.key);
    });

    test("routes", () => {
        // The patterns with regular expressions and repetitions are not for this peer.
        const known = (pattern) => !/[(+]|:\w+\*|:\w+\.|\\/.test(pattern);
        let count = 0;
        for (const set of read("routes.json").sets.filter((s) => s.patterns.every(known))) {
            const routes = new Routes();
            for (const path of set.patterns) routes.add(path, () => {});
            for (const c of set.cases) {
                const found = routes.find(c.url);
                assert.equal(found?.path ?? null, c.match, `${set.name}: ${c.url}`);
                if (found) assert.deepEqual({ ...found.params }, c.params, c.url);
                count++;
            }
        }
        assert.ok(count > 30, `${count} cases`);
    });

    for (const trace of read("breaker-traces.json").traces)
        test(`breaker: ${trace.name}`, () => followTrace(trace));
});

/** Drives Breaker through one trace under its clock; every selection looks up. */
async function followTrace({ options, peers, steps }) {
    let now = 0;
    const breaker = new Breaker(options, () => now);
    const names = Object.fromEntries(Object.entries(peers).map(([name, key]) => [key, name]));
    const held = new Map(); // requests that are open, by the name of their step
    for (const step of steps) {
        now = step.at;
        const what = JSON.stringify(step);
        const lookups = [];
        const outcomes = structuredClone(step.outcomes ?? {});
        const get = async (exclude) => {
            const key = Object.values(peers).find((peer) => !exclude?.includes(peer));
            lookups.push({ exclude: exclude ?? null, chosen: names[key] ?? null });
            if (!key) throw new Error("Namespace not found");
            return { key };
        };
        const request = ({ key }) => {
            const outcome = outcomes[names[key]]?.shift() ?? "ok";
            if (outcome === "ok") return names[key];
            if (outcome === "fail") throw new Error(`${names[key]} fails`);
            return new Promise((resolve, reject) => held.set(outcome, { resolve, reject, key }));
        };
        const settled = (promise) =>
            promise.then(
                (ok) => ({ ok }),
                (error) => ({ error: error.message }),
            );
        let result;
        if (step.do === "finish") {
            const { resolve, reject, key, running } = held.get(step.as);
            if (step.with === "ok") resolve(names[key]);
            else reject(new Error(`${names[key]} fails`));
            result = await running;
        } else if (step.do === "stream") {
            const { client, probe } = await breaker.select("svc", get, true);
            const [how] = outcomes[names[client.key]];
            const error = new Error(`${names[client.key]} stream fails`);
            if (how === "error") breaker.failure("svc", client.key, probe, error);
            if (how === "end") breaker.success("svc", client.key, probe);
            probe.giveBack();
            result = step.result;
        } else {
            const running = settled(breaker.call("svc", get, request, step.retries ?? 0));
            if (step.do === "begin") {
                await new Promise(setImmediate);
                held.get(step.as).running = running;
                result = "pending";
            } else result = await running;
        }
        assert.deepEqual(result, step.result, what);
        assert.deepEqual(lookups, step.lookups, what);
        for (const [name, key] of Object.entries(peers)) {
            const r = breaker.record("svc", key);
            const actual = r && {
                status: r.status,
                failures: r.failures,
                successes: r.successes,
                cooldown_ms: r.cooldownMs,
                next_attempt_at: r.status === "open" ? r.nextAttemptAt : null,
                probes_in_flight: r.probes,
            };
            const wanted = step.states?.[name];
            if (wanted?.status === "half-open") wanted.next_attempt_at = null;
            assert.deepEqual(actual, wanted, what);
        }
    }
}

// --- the transcripts -----------------------------------------------------------------------

/** Errors are alike when the status and message of the other side cross as they are. */
function sameError(wanted, error, kind) {
    if (kind === "js") {
        const { message, status, name } = wanted;
        assert.deepEqual(
            { message: error.message, status: error.status, name: error.name },
            { message, status: status ?? undefined, name },
        );
        return;
    }
    const local = {
        ECONNABORTED: ["CANCELLED", "TIMEOUT", "CLOSED"],
        ETIMEDOUT: ["TIMEOUT"],
    }[wanted.status];
    if (local) assert.ok(local.includes(error.status), `${error.status}: ${error.message}`);
    else if (wanted.status !== undefined) {
        assert.equal(error.status, wanted.status, error.message);
        assert.equal(error.message, wanted.message);
    }
}

function sameOutcome(wanted, actual, kind) {
    if (wanted === null || typeof wanted !== "object" || Array.isArray(wanted)) {
        if (Array.isArray(wanted) && wanted.some((item) => item?.result !== undefined)) {
            assert.equal(actual.length, wanted.length);
            wanted.forEach((item, i) => sameOutcome(item, actual[i], kind));
        } else assert.deepEqual(actual ?? null, wanted);
        return;
    }
    if (wanted.error) {
        assert.ok(actual.error, `expected ${JSON.stringify(wanted)}: ${JSON.stringify(actual)}`);
        sameError(wanted.error, actual.error, kind);
        if (wanted.chunks) assert.deepEqual(actual.chunks, wanted.chunks);
        return;
    }
    for (const [name, value] of Object.entries(wanted)) {
        if (value === "<uuid>" || value === "<seconds>") continue;
        sameOutcome(value, actual?.[name], kind);
    }
}

const transcripts = readdirSync(VECTORS)
    .filter((file) => /^v[12]-.*\.json$/.test(file))
    .map(read);

/** The scene of a transcript with what differs for the release and the kind of the subject. */
function sceneOf({ scenario, version }, kind, role) {
    const scene = SCENES[scenario];
    assert.ok(scene, `no scene for ${scenario}`);
    const departure =
        kind === "lua"
            ? (DEPARTURES[`${version} ${scenario} ${role}`] ?? DEPARTURES[`${scenario} ${role}`])
            : undefined;
    return { ...scene, ...scene.flavours?.[version], ...departure };
}

let serial = 0;

async function replay(transcript, role, kind, shared) {
    const { version } = transcript;
    const scene = sceneOf(transcript, kind, role);
    const stage = new Stage(transcript, role, { strict: kind === "js", scene });
    const as = `${role}-${++serial}`;
    const dir = mkdtempSync(join(tmpdir(), "micro-"));
    mkdirSync(join(dir, "configs"));
    let own;
    await stage.open();
    try {
        if (scene.env?.[role])
            own = new MicroPeer(kind, { env: scene.env[role](stage.ports) });
        const peer = own ?? shared;
        const c = {
            stage,
            flavour: version,
            ports: stage.ports,
            outcome: stage.outcome,
            configDir: join(dir, "configs"),
            frame: (index) => stage.frame(index),
            call: (cmd, fields) => peer.call(cmd, { as, ...fields }),
            events: (ev) => peer.all(ev, (event) => event.as === as),
            address: (key) => ({
                host: key.split(":")[0],
                port: Number(key.split(":")[1]),
            }),
            async attempt(cmd, fields) {
                try {
                    const value = await peer.call(cmd, { as, ...fields });
                    return value && Object.hasOwn(value, "data")
                        ? { result: value.data }
                        : { result: cmd === "get" ? value : undefined, ...value };
                } catch (error) {
                    const status = error.code === "ERROR" ? undefined : error.code;
                    return { error: { message: error.message, status, name: error.errorName } };
                }
            },
        };
        if (role === "registry") await scene.warm?.registry?.(c);
        await peer.call("start", {
            as,
            role: role === "registry" ? "registry" : "application",
            flavour: version,
            compat: version === "1.0.5" ? 1 : 2,
            namespace: NAMESPACES[role] ?? role,
            host: "127.0.0.1",
            advertise_host: "127.0.0.1",
            port: stage.ports[role],
            ...(role === "registry"
                ? { config_dir: c.configDir }
                : { registry: { host: "127.0.0.1", port: stage.ports.registry } }),
            ...QUIET,
            ...scene.config?.[role],
        });
        if (role !== "registry") await scene.warm?.[role]?.(c);
        const driven = Promise.resolve()
            .then(() => scene.drive?.[role]?.(c))
            .then((value) => ({ value }));
        let early;
        driven.then(
            ({ value }) => (early = `; it saw ${JSON.stringify(value)}`),
            (error) => (early = `; it failed: ${error.message}`),
        );
        await stage.play().catch((error) => {
            error.message += early ?? "; it is still at work";
            throw error;
        });
        const { value } = await driven;
        assert.deepEqual(await stage.leftovers(), [], "frames beyond the recording");
        stage.checkPaths();
        if (scene.drive?.[role]) {
            const outcome = scene.outcome?.[role]
                ? scene.outcome[role](stage.outcome)
                : stage.outcome;
            if (outcome !== undefined) sameOutcome(outcome, value, kind);
        }
        if (!scene.stopped) await c.call("stop").catch(() => {});
    } finally {
        await stage.close();
        if (own) await own.end();
        rmSync(dir, { recursive: true, force: true });
    }
}

/** The roles of a transcript that can be tested. */
function rolesOf({ scenario }) {
    const { drive = {}, passive = [], roles } = SCENES[scenario];
    return roles ?? [...new Set([...Object.keys(drive), ...passive])];
}

for (const kind of KINDS)
    describe(
        `transcripts, ${kind}`,
        { concurrency: 6, skip: kind === "lua" ? SKIP_LUA : false },
        () => {
            let peer;
            before(() => {
                peer = new MicroPeer(kind);
            });
            after(() => peer.end());
            for (const transcript of transcripts)
                for (const role of rolesOf(transcript)) {
                    const { scenario, version } = transcript;
                    const scene = sceneOf(transcript, kind, role);
                    test(
                        `${version} ${scenario}: ${role}`,
                        { skip: scene.leave ?? false, timeout: 90000 },
                        () => replay(transcript, role, kind, peer),
                    );
                }
        },
    );
