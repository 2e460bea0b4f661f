// hub_instance.mjs - a foreign instance of ws-cluster, written from its specification: the cluster
// object over npm's nats, and the demo application of the recordings over ws. hub_peer.mjs runs it.
//
// It is as plain as the originals are: no split lists, no owner checks, no answer to a reconnect.
//
// SPDX-License-Identifier: MIT
import { WebSocketServer } from "ws";

const isText = (value) => typeof value === "string";
const text = new TextDecoder();

/** What a message says; undefined when it is no JSON. */
const parse = (data) => {
    try {
        return JSON.parse(text.decode(data));
    } catch {
        return undefined;
    }
};

/** One instance of an application in the cluster. */
export class HubInstance {
    #timers = [];
    #subscriptions = [];
    #local = new Map(); // sessionId -> member
    #view = new Map(); // sessionId -> {...member, owner, expiresAt}

    /** `deliver`: {broadcast({ns, channel, message, exceptSessionIds}), direct(userId, message)}. */
    constructor({ bus, app, deliver, id, prefix = "mega.ws", driver = "nats", ttlMs = 30000 }) {
        Object.assign(this, { bus, deliver, driver });
        const random = Array.from({ length: 8 }, () => Math.floor(Math.random() * 36).toString(36));
        this.id = id ?? random.join("") + Date.now().toString(36);
        this.ttlMs = Number.isInteger(ttlMs) && ttlMs > 0 ? ttlMs : 30000;
        this.heartbeatMs = Math.max(1000, Math.floor(this.ttlMs / 2));
        this.subject = (last) => `${prefix}.${app}.${last}`;
        this.warnings = 0;
    }

    async start() {
        if (this.started) return;
        this.started = true;
        this.#subscribe("bcast", (message) => this.deliver.broadcast(message));
        this.#subscribe("direct", ({ userId, message }) => this.deliver.direct(userId, message));
        if (this.driver === "nats") {
            this.#subscribe("roster", (message) => this.#onRoster(message));
            const every = (ms, fn) => {
                const timer = setInterval(fn, ms);
                timer.unref();
                this.#timers.push(timer);
            };
            every(this.heartbeatMs, () => this.#heartbeat());
            every(this.ttlMs, () => this.#sweep());
            this.#publish("roster", { op: "sync_request" });
            this.#heartbeat();
        }
        await this.bus.flush();
    }

    async stop() {
        if (!this.started) return;
        this.started = false;
        for (const timer of this.#timers) clearInterval(timer);
        if (this.driver === "nats")
            for (const sessionId of this.#local.keys())
                this.#publish("roster", { op: "remove", sessionId });
        for (const subscription of this.#subscriptions) subscription.unsubscribe();
        this.#local.clear();
        this.#view.clear();
        await this.bus.flush();
    }

    rosterAdd({ ns, sessionId, userId, metadata }) {
        const member = { ns, sessionId, userId, metadata };
        this.#local.set(sessionId, member);
        if (this.driver !== "nats") return;
        this.#upsert(member, this.id);
        this.#publish("roster", { op: "add", member });
    }

    rosterRemove(sessionId) {
        const held = this.#local.delete(sessionId);
        if (this.driver !== "nats") return;
        this.#view.delete(sessionId);
        if (held) this.#publish("roster", { op: "remove", sessionId });
    }

    roster(ns) {
        const members = [...(this.driver === "nats" ? this.#view : this.#local).values()];
        return members
            .filter((member) => member.ns === ns)
            .map(({ sessionId, userId, metadata }) => ({ sessionId, userId, metadata }));
    }

    /** The whole view, with owners. */
    view() {
        return [...this.#view.values()].map(({ owner, expiresAt: _, ...member }) => ({
            ...member,
            instanceId: owner,
        }));
    }

    broadcast({ ns, channel, message, exceptSessionIds }) {
        const except = exceptSessionIds?.length ? exceptSessionIds : undefined;
        this.deliver.broadcast({ ns, channel, message, exceptSessionIds: except });
        this.#publish("bcast", { ns, channel, message, exceptSessionIds: except });
    }

    directToUser(userId, message) {
        this.deliver.direct(userId, message);
        this.#publish("direct", { userId, message });
    }

    #publish(subject, fields) {
        try {
            this.bus.publish(this.subject(subject), JSON.stringify({ o: this.id, ...fields }));
        } catch {
            this.warnings++;
        }
    }

    #subscribe(subject, handler) {
        const callback = (error, { data } = {}) => {
            const message = error ? undefined : parse(data);
            if (message === null || typeof message !== "object" || message.o === this.id) return;
            handler(message);
        };
        this.#subscriptions.push(this.bus.subscribe(this.subject(subject), { callback }));
    }

    #heartbeat() {
        for (const member of this.#local.values()) this.#upsert(member, this.id);
        this.#publish("roster", { op: "heartbeat", members: [...this.#local.values()] });
    }

    #upsert(member, owner) {
        const { ns, sessionId, userId, metadata } = member ?? {};
        if (!isText(ns) || !isText(sessionId)) return;
        const expiresAt = Date.now() + this.ttlMs;
        this.#view.set(sessionId, { ns, sessionId, userId, metadata, owner, expiresAt });
    }

    #sweep() {
        for (const [sessionId, { owner, expiresAt }] of this.#view)
            if (owner !== this.id && expiresAt < Date.now()) this.#view.delete(sessionId);
    }

    #onRoster({ o, op, member, members, sessionId }) {
        if (op === "add") this.#upsert(member, o);
        else if (op === "remove") this.#view.delete(sessionId);
        else if (op === "heartbeat" && Array.isArray(members))
            for (const each of members) this.#upsert(each, o);
        else if (op === "sync_request") this.#heartbeat();
    }
}

/** The demo application: WebSocket connections on one port, the path is the namespace. */
export class DemoApplication {
    #connections = new Set(); // sockets with ns, and after the join userId, sessionId, channels

    /** `cluster`: the options of HubInstance. */
    constructor(cluster) {
        const { send } = this;
        this.hub = new HubInstance({
            ...cluster,
            deliver: {
                broadcast: ({ ns, channel, message, exceptSessionIds = [] }) => {
                    if (!isText(message?.type)) return;
                    for (const socket of this.#connections)
                        if (
                            socket.ns === ns &&
                            (channel === undefined || socket.channels?.includes(channel)) &&
                            !exceptSessionIds.includes(socket.sessionId)
                        )
                            send(socket, message);
                },
                direct: (userId, message) => {
                    if (!isText(message?.type)) return;
                    for (const socket of this.#connections)
                        if (socket.userId !== undefined && socket.userId === userId)
                            send(socket, message);
                },
            },
        });
    }

    send(socket, { type, payload }) {
        if (socket.readyState === socket.OPEN) socket.send(JSON.stringify({ type, payload }));
    }

    async start({ host = "127.0.0.1", port = 0 } = {}) {
        this.server = new WebSocketServer({ host, port });
        this.server.on("connection", (socket, request) => this.#accept(socket, request));
        await new Promise((resolve, reject) => {
            this.server.once("listening", resolve);
            this.server.once("error", reject);
        });
        this.port = this.server.address().port;
        await this.hub.start();
    }

    async stop() {
        await this.hub.stop();
        for (const socket of this.#connections) socket.terminate();
        this.server.close();
    }

    #accept(socket, request) {
        socket.ns = request.url.replace(/\?.*$/, "");
        this.#connections.add(socket);
        socket.on("error", () => {});
        socket.on("message", (data) => this.#onMessage(socket, parse(data)));
        socket.on("close", () => {
            this.#connections.delete(socket);
            if (socket.sessionId !== undefined) this.hub.rosterRemove(socket.sessionId);
        });
    }

    #onMessage(socket, message) {
        const { type, payload } = message ?? {};
        const { ns, userId: from } = socket;
        if (type === "join") {
            const { userId, sessionId, channels, metadata } = payload;
            Object.assign(socket, { userId, sessionId, channels });
            this.hub.rosterAdd({ ns, sessionId, userId, metadata });
            this.send(socket, { type: "joined", payload: { sessionId } });
        } else if (type === "say") {
            const { text: said, channel, notMe } = payload;
            this.hub.broadcast({
                ns,
                channel,
                message: { type: "said", payload: { from, text: said } },
                exceptSessionIds: notMe ? [socket.sessionId] : undefined,
            });
        } else if (type === "dm") {
            const direct = { type: "dm", payload: { from, text: payload.text } };
            this.hub.directToUser(payload.to, direct);
        } else if (type === "list") {
            this.send(socket, { type: "roster", payload: this.hub.roster(ns) });
        }
    }
}
