// hub_replay.test.mjs - every recorded exchange of ws-cluster, replayed on a real nats-server: one
// instance is real, all others are played with the recorded bytes. What it publishes for the recorded
// actions is what was recorded, and so is what its clients get and its roster shows. npm is the
// foreign instance, which proves the player; lua is znlrun.
//
//   ZNLRUN     the binary; default ../../build/znlrun. Without it the lua part is skipped.
//   ZNL_HUB    only these: "npm,lua"
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { CHAT, idsOf, KINDS, limit, NEWS, sorted, stage, vectors } from "./hub_peers.mjs";
import { startNats } from "./nats_server.mjs";
import { until } from "./scene.mjs";

/** The clients of the recordings: session -> who it is. */
const CLIENTS = {
    wa1: { on: "instA", ns: CHAT, userId: "ann", channels: ["room1"] },
    wb1: { on: "instB", ns: CHAT, userId: "bob", channels: ["room1"] },
    wb2: { on: "instB", ns: CHAT, userId: "cid" },
    wb3: { on: "instB", ns: NEWS, userId: "bob" },
};
const NAMES = Object.fromEntries(
    Object.keys(CLIENTS).map((id) => [
        Object.keys(vectors("broadcast").cases[0].delivered_to_clients).find((key) =>
            key.includes(` ${id} `),
        ),
        id,
    ]),
);

const only = (object, ...names) =>
    Object.fromEntries(
        names.filter((name) => object[name] !== undefined).map((name) => [name, object[name]]),
    );

/** A message of our own without the marks that originals do not read. */
const withoutMarks = (json) => {
    const { o, op, member, members, sessionId, ...more } = json;
    return op === undefined
        ? json
        : {
              ...only(
                  { o, op, member, members, sessionId },
                  "o",
                  "op",
                  "member",
                  "members",
                  "sessionId",
              ),
              marks: more,
          };
};
const lean = (json) => {
    const { marks: _, ...rest } = withoutMarks(json);
    return rest;
};

/** One instance under test, and everyone else of a recording. */
class Player {
    clients = {}; // session -> client
    #heard = new Set(); // messages that were expected
    #played = new Set(); // texts that were played under its name

    constructor(s, tap, instance, { name, prefix = "mega.ws", app }) {
        Object.assign(this, { s, tap, instance, name, prefix, app });
    }

    subject(last) {
        return `${this.prefix}.${this.app}.${last}`;
    }

    /** A recorded subject as it is here. */
    #here(recorded) {
        return this.subject(recorded.split(".").at(-1));
    }

    /** A recorded text with the names that are real here. */
    #named(text) {
        return text.replaceAll(`"o":"${this.name}"`, `"o":${JSON.stringify(this.id)}`);
    }

    /** What the instance itself said, in the words of the recording. */
    #own(message) {
        if (message.json?.o !== this.id) return undefined;
        return lean({ ...message.json, o: this.name });
    }

    async said({ subject, json }) {
        const what = JSON.stringify(json);
        const fits = (message) => {
            const own = !this.#heard.has(message) && this.#own(message);
            return own && JSON.stringify(sort(own)) === JSON.stringify(sort(json));
        };
        const message = await this.tap.got(this.#here(subject), fits).catch((error) => {
            const rest = this.leftovers().map(({ text }) => text);
            throw new Error(`${what} was not said: ${error.message}\nsaid: ${rest.join("\n")}`);
        });
        this.#heard.add(message);
        return message;
    }

    /** What the instance said that nobody expected; its heartbeats come when they come. */
    leftovers() {
        return this.tap.messages.filter(
            (message) =>
                message.json?.o === this.id &&
                !this.#heard.has(message) &&
                !this.#played.has(message.text) &&
                (message.json.op === undefined || ["add", "remove"].includes(message.json.op)),
        );
    }

    play({ subject, text }) {
        const named = this.#named(text);
        if (named !== text) this.#played.add(named);
        return this.tap.publish(this.#here(subject), named);
    }

    /** A recorded message: of the instance, or played to it. */
    step(message) {
        return message.json.o === this.name ? this.said(message) : this.play(message);
    }

    async joins(sessionId, ns, userId, more) {
        const client = await this.instance.joined(`${userId} ${sessionId}`, { ns, ...more });
        client.user = userId;
        this.clients[sessionId] = client;
        return client;
    }

    /** Everyone has heard all that came before. */
    async settle() {
        const mark = `settle ${Math.random()}`;
        const message = { type: "settle", payload: mark };
        for (const ns of [CHAT, NEWS])
            await this.tap.publish(this.subject("bcast"), { o: "settler", ns, message });
        const heard = (count) => (client) =>
            client.of("settle").filter((payload) => payload === mark).length >= count;
        const clients = Object.values(this.clients);
        await until("everyone to hear a broadcast", () => clients.every(heard(1)));
        for (const userId of new Set(clients.map(({ user }) => user)))
            await this.tap.publish(this.subject("direct"), { o: "settler", userId, message });
        await until("everyone to hear a direct message", () => clients.every(heard(2)));
    }

    /** What each client got since the last time, marks left out. */
    received() {
        const all = {};
        for (const [id, client] of Object.entries(this.clients)) {
            all[id] = client.messages.filter(({ type }) => !["settle", "joined"].includes(type));
            client.messages.length = 0;
        }
        return all;
    }

    /** Waits until the roster of one namespace is as recorded. */
    async shows(recorded, ns = CHAT) {
        const wanted = sorted(recorded);
        let seen;
        const same = async () => {
            seen = await this.instance.roster(ns);
            return JSON.stringify(seen.map(sort)) === JSON.stringify(wanted.map(sort));
        };
        await until("the recorded roster", same).catch(() => assert.deepEqual(seen, wanted));
    }
}

const s2 = { ns: CHAT, sessionId: "s2", userId: "u2" };
/** Where a view of znlrun is better than the recorded one. `holds` and `lacks` last until the end;
 * `says`: what it answers. */
const DEPARTS = {
    // A list of an original is complete: what it does not list any more is gone.
    "heartbeat does not delete members that it no longer lists": { lacks: ["x2", "x3"] },
    // Only the owner takes a session away.
    "remove by an instance that does not own the session": {
        holds: [{ ns: CHAT, sessionId: "x1", userId: "ux" }],
    },
    // What is held here is said again at once, which heals the originals.
    "remove of a session that instB holds itself: it disappears until instB's next heartbeat": {
        holds: [s2],
        says: { o: "instB", op: "add", member: s2 },
    },
};

/** Fields in one order. */
function sort(value) {
    if (value === null || typeof value !== "object") return value;
    if (Array.isArray(value)) return value.map(sort);
    const names = Object.keys(value).sort();
    return Object.fromEntries(names.map((name) => [name, sort(value[name])]));
}

let nats;
before(async () => {
    nats = await startNats();
});
after(() => nats.remove());

for (const { kind, skip } of KINDS)
    describe(kind, { skip, concurrency: 8 }, () => {
        const ours = kind === "lua";

        /** A player whose instance, `name` in the recording, has started. */
        const played = (title, { name = "instA", ...config }, body) =>
            test(`${title}, as ${name}`, limit, () =>
                stage(
                    async (s) => {
                        const app = config.app ?? s.app;
                        const tap = await s.tap(`${config.prefix ?? "mega.ws"}.${app}.>`);
                        const start = () => s.instance(kind, { ...config, app });
                        const player = new Player(s, tap, undefined, { ...config, name, app });
                        await body(player, async () => {
                            player.instance = await start();
                            if (config.driver === "none") return;
                            const fresh = ({ json }) =>
                                json?.op === "sync_request" && !json.o.startsWith("inst");
                            player.id = (await tap.got(player.subject("roster"), fresh)).json.o;
                        });
                        assert.deepEqual(player.leftovers(), []);
                    },
                    { server: nats },
                ),
            );
        const both = (title, config, body) => {
            for (const name of ["instA", "instB"]) played(title, { ...config, name }, body);
        };

        both("start", {}, async (player, start) => {
            const [alone, beside] = vectors("start").cases.map(({ messages }) => messages);
            if (player.name === "instA") {
                await start();
                for (const message of [...alone, ...beside]) await player.step(message);
                return;
            }
            for (const message of alone) await player.step(message);
            await start();
            for (const message of beside) await player.step(message);
            const [first, second] = player.tap.of(player.subject("roster")).slice(alone.length);
            assert.deepEqual([first.json.op, second.json.op], ["sync_request", "heartbeat"]);
        });

        /** Does what a recorded case of the roster says, and has the rosters of the case. */
        const rosterCase = async (player, recorded) => {
            const { messages } = recorded;
            const mine = messages.filter(({ json }) => json.o === player.name);
            for (const { json } of mine) {
                const { member, sessionId } = json;
                if (json.op === "add") {
                    const { ns, userId, metadata } = member;
                    const there = player.clients[member.sessionId];
                    if (there) await there.join(userId, member.sessionId, { metadata });
                    else await player.joins(member.sessionId, ns, userId, { metadata });
                } else {
                    await player.clients[sessionId].close();
                    delete player.clients[sessionId];
                }
            }
            for (const message of messages) await player.step(message);
            const view = recorded[`view_on_${player.name}`];
            await player.shows(
                view ? view.filter(({ ns }) => ns === CHAT) : recorded[`roster_on_${player.name}`],
            );
        };

        both("roster-delta", {}, async (player, start) => {
            await start();
            for (const recorded of vectors("roster-delta").cases) {
                if (recorded.messages.length > 0) {
                    await rosterCase(player, recorded);
                    continue;
                }
                // An instance that takes away what it does not hold: a hub of znlrun has no such call.
                if (ours || player.name !== "instA") continue;
                await player.instance.call("forget", { session_id: "s2" });
                await player.shows(recorded.roster_on_instA);
            }
        });

        both("duplicate-session", {}, async (player, start) => {
            await start();
            const [here, there, gone, back] = vectors("duplicate-session").cases;
            await rosterCase(player, here);
            await rosterCase(player, there);
            if (!ours) return rosterCase(player, gone);
            if (player.name === "instA") {
                // The session is at instB: no remove is said that would delete it there.
                await player.clients.dup.close();
                delete player.clients.dup;
                await player.shows(there.view_on_instA);
                return;
            }
            // A remove by who does not own it: said again at once, which heals the originals.
            await player.play(gone.messages[0]);
            const [{ json, subject }] = there.messages;
            await player.said({ json, subject });
            await player.shows(back.view_on_instB);
        });

        for (const name of ["instH1", "instH2"])
            played("heartbeat", { name, ttl_ms: 4000 }, async (player, start) => {
                const { messages } = vectors("heartbeat");
                const members = messages.find(({ json }) => json.o === "instH1").json.members;
                await start();
                if (name === "instH1")
                    for (const { ns, sessionId, userId, metadata } of members) {
                        await player.joins(sessionId, ns, userId, { metadata });
                        const json = {
                            o: name,
                            op: "add",
                            member: only(
                                { ns, sessionId, userId, metadata },
                                "ns",
                                "sessionId",
                                "userId",
                                "metadata",
                            ),
                        };
                        await player.said({ subject: messages[0].subject, json });
                    }
                for (const message of messages) await player.step(message);
                if (name === "instH2") await player.shows(members.filter(({ ns }) => ns === CHAT));
            });

        played("roster-foreign", { name: "instB" }, async (player, start) => {
            await start();
            const delta = vectors("roster-delta").cases.flatMap(({ messages }) => messages);
            await player.joins("s2", CHAT, "u2");
            for (const message of delta)
                if (message.json.o === "instA") await player.play(message);
                else if (message.json.member?.sessionId === "s2") await player.said(message);
            const holds = new Map();
            const lacks = new Set();
            for (const recorded of vectors("roster-foreign").cases) {
                const { case: title, injected, answers, view_on_instB: view } = recorded;
                await player.play(injected);
                for (const answer of answers.filter(({ json }) => json.o === "instB"))
                    await player.said(answer);
                const departs = (ours && DEPARTS[title]) || {};
                if (departs.says)
                    await player.said({ subject: injected.subject, json: departs.says });
                for (const id of departs.lacks ?? []) lacks.add(id);
                for (const member of departs.holds ?? []) holds.set(member.sessionId, member);
                const wanted = view.filter(({ sessionId: id }) => !lacks.has(id) && !holds.has(id));
                wanted.push(...holds.values());
                for (const ns of [CHAT, NEWS])
                    await player
                        .shows(
                            wanted.filter((member) => member.ns === ns),
                            ns,
                        )
                        .catch((error) => {
                            error.message = `${title}, ${ns}: ${error.message}`;
                            throw error;
                        });
                if (!ours) {
                    const owners = (members) =>
                        members.map(({ sessionId, instanceId }) => [sessionId, instanceId]).sort();
                    const here = (await player.instance.call("view")).map((member) => ({
                        ...member,
                        instanceId: member.instanceId === player.id ? "instB" : member.instanceId,
                    }));
                    assert.deepEqual(owners(here), owners(view), title);
                }
            }
        });

        /** The clients of the recordings that are on the instance under test. */
        const seated = async (player) => {
            for (const [id, { on, ns, userId, channels }] of Object.entries(CLIENTS)) {
                if (on !== player.name) continue;
                await player.joins(id, ns, userId, { channels });
                const json = { o: on, op: "add", member: { ns, sessionId: id, userId } };
                await player.said({ subject: "roster", json });
            }
            player.received();
        };
        const delivered = async (player, { case: title, delivered_to_clients: wanted }) => {
            await player.settle();
            const received = player.received();
            for (const [name, messages] of Object.entries(wanted))
                if (CLIENTS[NAMES[name]].on === player.name)
                    assert.deepEqual(received[NAMES[name]], messages, `${title}: ${name}`);
        };

        both("broadcast", {}, async (player, start) => {
            await start();
            await seated(player);
            for (const recorded of vectors("broadcast").cases) {
                const { on, ns, channel, message, exceptSessionIds: except } = recorded.call;
                if (on === player.name)
                    await player.instance.call("broadcast", { ns, channel, message, except });
                for (const sent of recorded.messages) await player.step(sent);
                await delivered(player, recorded);
            }
        });

        both("direct", {}, async (player, start) => {
            await start();
            await seated(player);
            for (const recorded of vectors("direct").cases) {
                const { on, userId: user_id, message } = recorded.call;
                if (on === player.name) await player.instance.call("direct", { user_id, message });
                for (const sent of recorded.messages) await player.step(sent);
                await delivered(player, recorded);
            }
        });

        both("fanout-foreign", {}, async (player, start) => {
            await start();
            await seated(player);
            for (const recorded of vectors("fanout-foreign").cases) {
                await player.play(recorded.injected);
                await delivered(player, recorded);
            }
        });

        both("stop", {}, async (player, start) => {
            const { messages, roster_on_instB: left } = vectors("stop");
            await start();
            const places = { s1: CHAT, s3: NEWS, wa1: CHAT };
            const leaving = messages.map(({ json }) => json.sessionId);
            if (player.name === "instA") {
                for (const id of leaving) {
                    await player.joins(id, places[id], "u");
                    const member = { ns: places[id], sessionId: id, userId: "u" };
                    await player.said({
                        subject: "roster",
                        json: { o: "instA", op: "add", member },
                    });
                }
                await player.instance.call("stop");
                for (const message of messages) await player.said(message);
                const removes = player.tap.of(
                    player.subject("roster"),
                    ({ json }) => json.op === "remove",
                );
                const left = removes.map(({ json }) => json.sessionId);
                assert.deepEqual(left, leaving);
                return;
            }
            const others = left.filter(({ sessionId }) => sessionId.startsWith("x"));
            const add = (o, member) =>
                player.play({ subject: "roster", text: JSON.stringify({ o, op: "add", member }) });
            for (const id of leaving)
                await add("instA", { ns: places[id], sessionId: id, userId: "u" });
            for (const member of others) await add("instX", { ns: CHAT, ...member });
            for (const { sessionId, userId } of left.filter((member) => !others.includes(member))) {
                await player.joins(sessionId, CHAT, userId);
                const member = { ns: CHAT, sessionId, userId };
                await player.said({ subject: "roster", json: { o: "instB", op: "add", member } });
            }
            await player.shows([
                ...left,
                ...["s1", "wa1"].map((sessionId) => ({ sessionId, userId: "u" })),
            ]);
            for (const message of messages) await player.play(message);
            await player.shows(left);
            await player.shows([], NEWS);
        });

        played("driver-none", { name: "instN", driver: "none" }, async (player, start) => {
            const { messages, roster_on_instN: roster } = vectors("driver-none");
            await start();
            for (const { sessionId, userId } of roster) await player.joins(sessionId, CHAT, userId);
            const [{ subject, json }] = messages;
            const { ns, message } = json;
            await player.instance.call("broadcast", { ns, message });
            player.id = (await player.tap.got(player.subject("bcast"))).json.o;
            await player.said({ subject, json });
            await player.shows(roster);
            await player.play({
                subject: "roster",
                text: '{"o":"instX","op":"add","member":{"ns":"/ws/chat","sessionId":"x","userId":"u"}}',
            });
            await player.play({ subject: "roster", text: '{"o":"instX","op":"sync_request"}' });
            await player.settle();
            await player.shows(roster);
            const own = player.tap.messages.filter(({ json: { o } }) => o === player.id);
            assert.equal(own.length, 1);
        });

        played(
            "prefix",
            { name: "instP", prefix: "acme.rt", app: `shop-${kind}` },
            async (player, start) => {
                const { messages } = vectors("prefix");
                await start();
                const [sync, beat, broadcast, direct] = messages;
                await player.said(sync);
                await player.said(beat);
                const { ns, message } = broadcast.json;
                await player.instance.call("broadcast", { ns, message });
                await player.said(broadcast);
                await player.instance.call("direct", {
                    user_id: direct.json.userId,
                    message: direct.json.message,
                });
                await player.said(direct);
            },
        );
    });
