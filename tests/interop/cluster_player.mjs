// cluster_player.mjs - plays one side of a recorded exchange of cluster-client against a living peer, and
// compares what that one sends with the record: connObj as an object, data by its value, timeouts; ids as
// they belong together.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { argumentsOf, parse, RawFollower } from "./cluster_raw.mjs";
import { decode } from "./cluster_transcode.mjs";
import { pack } from "./cluster_values.mjs";
import { sleep, until } from "./scene.mjs";

/** What the data of a packet means. */
export function meaning(packet) {
    if (packet.connObj.type === "invoke") return pack(argumentsOf(packet));
    return packet.data.length > 0 ? pack(decode(packet.data)) : null;
}

export const say = ({ kind, id, connText }) => `${kind} ${id} ${connText}`;

/** Compares a packet with the recorded one. `departs(item, packet)` may take the comparison over. */
function compare(item, packet, { departs = () => false } = {}) {
    const recorded = parse(Buffer.from(item.hex, "hex"));
    if (departs(recorded, packet)) return;
    const what = say(recorded);
    assert.equal(packet.kind, recorded.kind, what);
    assert.deepEqual(packet.connObj, recorded.connObj, what);
    assert.equal(packet.timeout, recorded.timeout, what);
    assert.equal(packet.version, 1, what);
    assert.equal(packet.reserved, 0, what);
    assert.deepEqual(meaning(packet), meaning(recorded), what);
}

/** The recorded bytes under another id. */
function withId(item, id) {
    const bytes = Buffer.from(item.hex, "hex");
    bytes.writeBigInt64BE(BigInt(id), 4);
    return bytes;
}

/** One side: what both have in common. */
class Player {
    ids = new Map(); // "conn kind id" as recorded -> id of the living peer
    lines = new Map(); // conn -> Line

    constructor(how = {}) {
        this.how = how;
    }

    /** The next packet on a connection, in the order in which they came. */
    async next(line, what, ms = 12000) {
        await until(what, () => line.packets.length > 0 || line.closed, ms);
        assert.ok(line.packets.length > 0, `the connection closed before ${what}`);
        return line.packets.shift();
    }

    /** A packet that the living peer must send now. */
    async heard(item) {
        const line = await this.line(item.conn);
        const packet = await this.next(line, say(item.decoded));
        compare(item, packet, this.how);
        const { kind, id } = item.decoded;
        // A response is to a request that was played under its own id.
        if (kind === "response") assert.equal(packet.id, id, say(packet));
        else this.ids.set(`${item.conn} ${id}`, packet.id);
    }

    /** A packet of the side that is played. */
    async tell(item) {
        const line = await this.line(item.conn);
        const { kind, id } = item.decoded;
        const to = kind === "response" ? this.ids.get(`${item.conn} ${id}`) : id;
        if (to === undefined) return; // the request it answers was heard otherwise
        line.write(withId(item, to));
    }

    /** `how.paced`: nothing is told sooner after the first packet than it was. */
    async play(exchange) {
        let began;
        for (const item of exchange) {
            if (this.how.paced && began) await sleep(began + item.at_ms - Date.now());
            await this.step(item);
            if (item.hex) began ??= Date.now() - item.at_ms;
        }
    }

    step(item) {
        const theirs = item.dir === this.living;
        if (item.event === "open") return this.opened(item);
        if (item.event === "FIN") return theirs ? this.closes(item) : this.close(item);
        return theirs ? this.heard(item) : this.tell(item);
    }

    async closes(item) {
        await (await this.line(item.conn)).end(12000);
    }

    async close(item) {
        (await this.line(item.conn)).socket.end();
    }

    /** What came beyond the record. */
    leftovers() {
        return [...this.lines.values()].flatMap(({ packets }) => packets.map(say));
    }
}

/** Plays the follower against a leader at `port`. */
export class FollowerPlayer extends Player {
    living = "leader->follower";

    constructor(port, how) {
        super(how);
        this.port = port;
    }

    async opened({ conn }) {
        this.lines.set(conn, new RawFollower(this.port));
    }

    /** A recording that begins later has a connection that is registered. */
    async line(conn) {
        if (!this.lines.has(conn)) {
            const line = new RawFollower(this.port);
            this.lines.set(conn, line);
            await line.register();
            assert.equal(line.registered.success, true);
        }
        return this.lines.get(conn);
    }

    /** After an answer to a heartbeat nothing earlier can be under way. */
    async settle() {
        for (const line of this.lines.values()) if (!line.closed) assert.ok(await line.beats());
        assert.deepEqual(this.leftovers(), []);
    }

    close_() {
        for (const line of this.lines.values()) line.destroy();
    }
}

/** Plays the leader for followers of `leader`, a RawLeader. */
export class LeaderPlayer extends Player {
    living = "follower->leader";
    #accepted = 0;

    constructor(leader, exchange, how) {
        super(how);
        this.leader = leader;
        // Connections without a packet are probes: the raw leader does not keep them.
        this.talking = new Set(exchange.filter(({ hex }) => hex).map(({ conn }) => conn));
    }

    /** Begins on a connection that has registered. */
    begin(conn, line) {
        this.lines.set(conn, line);
        this.#accepted = this.leader.lines.length;
    }

    async opened() {}

    async closes(item) {
        if (this.talking.has(item.conn) || this.lines.has(item.conn)) await super.closes(item);
    }

    async line(conn) {
        if (!this.lines.has(conn)) {
            const index = this.#accepted++;
            this.lines.set(
                conn,
                await until(`connection ${conn}`, () => this.leader.lines[index], 12000),
            );
        }
        return this.lines.get(conn);
    }
}
