// cluster_fleet.test.mjs - ten processes that share one client: the leader is killed again and again, and
// another process takes its place in the fleet. No subscription is lost, the last value always comes to
// everyone, every call that was under way ends. Fleets of znlrun, of both, and one of the package alone
// as the control, which is killed less often.
//
//   ZNL_CLUSTER        only these: "npm,lua"
//   ZNL_FLEET_ROUNDS   how often the leader is killed; default 50
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { mkdtempSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { freePort, KINDS, stage } from "./cluster_peers.mjs";
import { until } from "./scene.mjs";

const ROUNDS = Number(process.env.ZNL_FLEET_ROUNDS ?? 50);
const SIZE = 10;
const UP = { dataId: "up" };
const SHARED = { dataId: "shared" };
const skipOf = Object.fromEntries(KINDS.map(({ kind, skip }) => [kind, skip]));

/** A value that the real client of whoever leads follows: a file, as a registry elsewhere would be. */
class Upstream {
    constructor() {
        this.folder = mkdtempSync(join(tmpdir(), "znl-fleet-"));
        this.file = join(this.folder, "value");
    }

    set(value) {
        writeFileSync(`${this.file}.new`, String(value));
        renameSync(`${this.file}.new`, this.file);
    }

    close() {
        rmSync(this.folder, { recursive: true });
    }
}

class Fleet {
    members = [];
    #made = 0;

    constructor(s, kinds, port, upstream) {
        Object.assign(this, { s, kinds, port, upstream });
    }

    async join() {
        const kind = this.kinds[this.#made++ % this.kinds.length];
        const member = this.s.client(kind);
        await member.start({
            port: this.port,
            response_timeout_ms: 5000,
            demo: { upstream: this.upstream.file },
        });
        await member.subscribe(UP, "up");
        await member.subscribe(SHARED, "shared");
        this.members.push(member);
        return member;
    }

    /** Who leads: one, and no more than one. */
    leader() {
        return until("one leader", async () => {
            const leads = await Promise.all(this.members.map((member) => member.call("leads")));
            const found = this.members.filter((_, i) => leads[i]);
            assert.ok(found.length <= 1, `${found.length} lead`);
            return found[0];
        });
    }

    /** Waits until every member has `value` as its last one. */
    async seen(label, value) {
        for (const member of this.members)
            await until(
                `${label} ${value} at a ${member.kind}`,
                () => member.values(label).at(-1) === value,
                20000,
            );
    }

    forget() {
        for (const { peer } of this.members) peer.forget();
    }
}

async function killings(s, kinds, rounds) {
    const upstream = s.later(new Upstream());
    const fleet = new Fleet(s, kinds, await freePort(), upstream);
    upstream.set(0);
    await fleet.join();
    await Promise.all(Array.from({ length: SIZE - 1 }, () => fleet.join()));
    await fleet.seen("up", 0);
    const ended = { ok: 0, failed: 0 };
    const led = new Set();
    for (let round = 1; round <= rounds; round++) {
        const leader = await fleet.leader();
        led.add(leader.kind);
        // A publisher that lives: what it has published comes with it to the next leader.
        const rest = fleet.members.filter((member) => member !== leader);
        const publisher = rest[round % rest.length];
        await publisher.publish("shared", round);
        await fleet.seen("shared", round);

        const calls = rest.flatMap((member) => [
            member.invoke("slow", 4000),
            member.invoke("slow", 1),
            member.invoke("echoOne", { round }),
        ]);
        let outcomes;
        Promise.allSettled(calls).then((all) => (outcomes = all));
        fleet.forget();
        leader.peer.kill();
        fleet.members = rest;
        upstream.set(round);
        await until("every call to end", () => outcomes, 20000);
        for (const { status } of outcomes) ended[status === "fulfilled" ? "ok" : "failed"]++;
        await fleet.join();
        await fleet.seen("up", round);
    }
    assert.equal(fleet.members.length, SIZE);
    assert.ok(ended.failed > 0, "no call was cut off");
    if (rounds >= 20) assert.deepEqual([...led].sort(), [...new Set(kinds)].sort());
    return ended;
}

const FLEETS = [
    { name: "both, half and half", kinds: ["lua", "npm"], rounds: ROUNDS },
    { name: "znlrun alone", kinds: ["lua"], rounds: ROUNDS },
    { name: "the package alone", kinds: ["npm"], rounds: 3 },
];

describe("ten processes, the leader is killed in a loop", () => {
    for (const { name, kinds, rounds } of FLEETS) {
        const skip = kinds.map((kind) => skipOf[kind]).find(Boolean) ?? false;
        test(name, { skip, timeout: 180000 }, () => stage((s) => killings(s, kinds, rounds)));
    }
});
