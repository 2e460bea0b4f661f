// micro_peers.mjs - what the tests of micro share: processes that hold registries, applications and
// servers of one implementation, and the objects in them.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { freeEndpoint, Peer, SKIP_LUA, until } from "./scene.mjs";

export const KINDS = (process.env.ZNL_KINDS ?? "v1,v2,lua").split(",");
export const NO_LUA = SKIP_LUA || (KINDS.includes("lua") ? false : "lua is not among ZNL_KINDS");
const FLAVOURS = { v1: "1.0.5", v2: "2.0.15" };
/** Intervals that stay out of the way. */
export const QUIET = {
    heartbeat_ms: 60000,
    heartbeat_timeout_ms: 120000,
    heartbeat_check_ms: 5000,
};

const TROUBLE = /panic|Sanitizer|runtime error|task failed|on_event|luajit:/i;

export const freePort = async () => Number((await freeEndpoint()).split(":").at(-1));

/** Ends processes, all of them, then says what was wrong with one. */
export async function endAll(peers) {
    const ended = await Promise.allSettled(peers.map((peer) => peer.end()));
    const failed = ended.find(({ reason }) => reason);
    if (failed) throw failed.reason;
}

/** One registry, application or server in a process. */
class Micro {
    #events = 0; // how many events of the process are forgotten

    constructor(peer, as, kind) {
        Object.assign(this, { peer, as, kind });
    }

    async start(role, registryPort, config = {}) {
        this.port = config.port ?? (await freePort());
        await this.peer.call("start", {
            as: this.as,
            role,
            flavour: FLAVOURS[this.kind],
            namespace: this.as.replace(/-\d+$/, "").replace(/^(first|second|good|one|two)$/, "provider"),
            host: "127.0.0.1",
            advertise_host: "127.0.0.1",
            port: this.port,
            ...(role === "application"
                ? { registry: { host: "127.0.0.1", port: registryPort } }
                : {}),
            ...QUIET,
            ...config,
        });
    }

    call(cmd, fields) {
        return this.peer.call(cmd, { as: this.as, ...fields });
    }

    stop() {
        return this.peer.exit ? undefined : this.call("stop");
    }

    restart() {
        return this.call("restart");
    }

    all(ev, match = () => true) {
        return this.peer.events
            .slice(this.#events)
            .filter((event) => event.as === this.as && event.ev === ev && match(event));
    }

    event(ev, match, ms) {
        return until(`event ${ev} of ${this.as}`, () => this.all(ev, match)[0], ms);
    }

    forget() {
        this.#events = this.peer.events.length;
    }
}

export class MicroPeer extends Peer {
    constructor(kind, options) {
        super(kind, { script: "micro_peer", ...options });
    }

    object(as, kind) {
        return new Micro(this, as, kind);
    }

    /** Ends the process and looks at what it left behind. */
    async end() {
        if (!this.exit) await this.kill();
        assert.deepEqual(this.all("unhandled"), [], this.kind);
        // Tracebacks of handlers that fail on purpose are logged; these are not.
        const trouble = this.stderr.split("\n").filter((line) => TROUBLE.test(line));
        assert.deepEqual(trouble, [], this.kind);
    }
}
