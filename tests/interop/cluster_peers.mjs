// cluster_peers.mjs - what the tests of cluster-client share: processes that hold clients of one
// implementation, and the clients in them. npm is the package itself, lua is znlrun.
//
//   ZNL_CLUSTER   only these: "npm,lua"
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { pack, unpack } from "./cluster_values.mjs";
import { freeEndpoint, Peer, SKIP_LUA, until } from "./scene.mjs";

const here = dirname(fileURLToPath(import.meta.url));
const VECTORS = process.env.ZNL_CLUSTER_VECTORS ?? join(here, "../vectors/cluster");
export const vectors = (name) => JSON.parse(readFileSync(join(VECTORS, `${name}.json`)));

const WANTED = (process.env.ZNL_CLUSTER ?? "npm,lua").split(",");
const skipped = (kind) =>
    !WANTED.includes(kind) ? `${kind} is not among ZNL_CLUSTER` : kind === "lua" && SKIP_LUA;
export const KINDS = ["npm", "lua"].map((kind) => ({ kind, skip: skipped(kind) }));
export const NO_LUA = skipped("lua");
export const PAIRS = KINDS.flatMap((leader) =>
    KINDS.map((follower) => ({
        name: `${leader.kind} leads, ${follower.kind} follows`,
        leader: leader.kind,
        follower: follower.kind,
        skip: leader.skip || follower.skip,
    })),
);

const TROUBLE = /panic|Sanitizer|runtime error|task failed|on_event|luajit:/i;

export const freePort = async () => Number((await freeEndpoint()).split(":").at(-1));

/** One client in a process. */
class Client {
    constructor(peer, as) {
        Object.assign(this, { peer, as, kind: peer.kind });
    }

    call(cmd, fields) {
        return this.peer.call(cmd, { as: this.as, ...fields });
    }

    async start(config) {
        return this.call("start", config);
    }

    async invoke(method, ...args) {
        return unpack(await this.call("invoke", { method, args: pack(args) }));
    }

    /** Calls a method that fails: the error. */
    async fails(method, ...args) {
        const value = await this.invoke(method, ...args).catch((error) => ({ error }));
        assert.ok(value?.error instanceof Error, `${method} came to ${JSON.stringify(value)}`);
        return value.error;
    }

    oneway(method, ...args) {
        return this.call("oneway", { method, args: pack(args) });
    }

    publish(dataId, value) {
        return this.call("publish", { reg: pack({ dataId, value }) });
    }

    subscribe(reg, label, quiet) {
        return this.call("subscribe", { reg: pack(reg), text: JSON.stringify(reg), label, quiet });
    }

    unsubscribe(reg, label) {
        return this.call("unsubscribe", { reg: pack(reg), text: JSON.stringify(reg), label });
    }

    async seen(label) {
        const { last, ...more } = await this.call("seen", { label });
        return { last: unpack(last), ...more };
    }

    all(ev, match = () => true) {
        return this.peer.all(ev, (event) => event.as === this.as && match(event));
    }

    /** Everything a subscription has brought. */
    values(label) {
        return this.all("value", (event) => event.label === label).map(({ value }) =>
            unpack(value),
        );
    }

    /** Waits until a subscription has brought `count` values; they. */
    async got(label, count, ms) {
        const enough = () => {
            const values = this.values(label);
            return values.length >= count && values;
        };
        return until(`${count} values for ${label} at ${this.as} of ${this.kind}`, enough, ms);
    }

    event(ev, match, ms) {
        return until(`event ${ev} of ${this.as} of ${this.kind}`, () => this.all(ev, match)[0], ms);
    }
}

export class ClusterPeer extends Peer {
    constructor(kind, options) {
        super(kind, { script: "cluster_peer", ...options });
    }

    client(as = "client") {
        return new Client(this, as);
    }

    /** Ends the process and looks at what it left behind. */
    async end() {
        if (this.exit) return;
        await this.kill();
        assert.deepEqual(this.all("unhandled"), [], this.kind);
        const trouble = this.stderr.split("\n").filter((line) => TROUBLE.test(line));
        assert.deepEqual(trouble, [], this.kind);
    }
}

/** Runs `body(s)`; `s.peer(kind)` makes a process, `s.later(fn)` cleans up. */
export async function stage(body) {
    const peers = [];
    const cleanup = [];
    const s = {
        peer(kind, options) {
            const peer = new ClusterPeer(kind, options);
            peers.push(peer);
            return peer;
        },
        client: (kind, options) => s.peer(kind, options).client(),
        later(thing) {
            cleanup.push(thing);
            return thing;
        },
    };
    let failure;
    try {
        await body(s);
    } catch (error) {
        failure = error;
        for (const { kind, stderr } of peers)
            if (stderr) failure.message += `\n--- ${kind} stderr:\n${stderr.slice(-2000)}`;
    }
    const ended = await Promise.allSettled(peers.map((peer) => peer.end()));
    for (const thing of cleanup) (thing.destroy ?? thing.close).call(thing);
    failure ??= ended.find(({ reason }) => reason)?.reason;
    if (failure) throw failure;
}
