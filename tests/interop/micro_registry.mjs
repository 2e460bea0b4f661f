// micro_registry.mjs - the Registry of micro.mjs: discovery, topics, configuration (spec, sections
// 9 to 11). Configuration files hold JSON, which is YAML as well.
//
// SPDX-License-Identifier: MIT
import { existsSync, readdirSync, readFileSync, watch } from "node:fs";
import { join } from "node:path";
import { HEARTBEAT, Server } from "./micro.mjs";

/** An address from its key, cut at the last colon; undefined if unusable. */
export function parseKey(key) {
    const colon = key.lastIndexOf(":");
    if (colon < 1) return undefined;
    const [host, text] = [key.slice(0, colon), key.slice(colon + 1)];
    const port = Number(text);
    if (text === "" || !Number.isInteger(port) || port < 1 || port > 65535) return undefined;
    return { host, port };
}

/** The text by which two payloads are judged equal. */
export function signature(value) {
    if (value === undefined) return "undefined";
    if (value === null) return "null";
    if (Array.isArray(value)) return `array:[${value.map(signature).join(",")}]`;
    if (typeof value === "object") {
        const names = Object.keys(value).sort();
        const member = (name) => `${JSON.stringify(name)}:${signature(value[name])}`;
        return `object:{${names.map(member).join(",")}}`;
    }
    return `${typeof value}:${JSON.stringify(value)}`;
}

export class Registry extends Server {
    namespaces = new Map(); // namespace -> Set of keys
    topics = new Map(); // name -> {publishers, subscribers, value, retained}
    #revision = 0;
    #heard = new Map(); // 1.0.5: key -> time of the last sign
    #timer;
    #watcher;

    /** `configDir`: the folder of *.config.yaml; `envRoutes`: the routes of releases between. */
    constructor({ configDir, envRoutes, ...options } = {}) {
        super({ ...options, namespace: "registry" });
        this.configDir = configDir;
        this.on("connect", (client) => this.#connected(client));
        this.on("disconnect", (client) => this.#gone(client));
        this.register("/-/find", ({ data }) => this.#find(data));
        if (this.v1)
            this.register(HEARTBEAT, ({ client }) => {
                this.#heard.set(client.key, Date.now());
            });
        else this.#topicRoutes();
        if (envRoutes) this.#envRoutes();
    }

    async listen(port) {
        await super.listen(port);
        if (this.v1) {
            const { timeoutMs, checkMs } = this.heartbeat;
            this.#timer = setInterval(() => {
                for (const client of this.clients.values())
                    if (Date.now() - this.#heard.get(client.key) >= timeoutMs) client.dispose();
            }, checkMs);
        } else if (this.configDir && existsSync(this.configDir)) {
            this.#readConfig();
            this.#watcher = watch(this.configDir, () => this.#readConfig());
        }
    }

    async stop() {
        clearInterval(this.#timer);
        this.#watcher?.close();
        await super.stop();
    }

    // --- discovery -------------------------------------------------------------------------

    #connected(client) {
        const namespace = client.extras.join("/");
        if (!this.namespaces.has(namespace)) this.namespaces.set(namespace, new Set());
        this.namespaces.get(namespace).add(client.key);
        this.#heard.set(client.key, Date.now());
    }

    #gone(client) {
        const keys = this.namespaces.get(client.extras.join("/"));
        keys?.delete(client.key); // by its key alone: the 1.0.5 loses a newer connection so
        for (const [name, topic] of this.topics) {
            topic.subscribers.delete(client.key);
            if (topic.publishers.delete(client.key)) this.#recompute(name, topic);
            this.#dropUnused(name, topic);
        }
    }

    #find(data) {
        const keys = [...(this.namespaces.get(data.namespace) ?? [])];
        const exclude = Array.isArray(data.exclude) ? data.exclude : [];
        const found = keys
            .filter((key) => !exclude.includes(key))
            .map(parseKey)
            .filter(Boolean);
        return found[Math.floor(Math.random() * found.length)];
    }

    // --- topics ----------------------------------------------------------------------------

    #topic(name) {
        if (!this.topics.has(name))
            this.topics.set(name, {
                publishers: new Map(), // key -> {payload, revision}
                subscribers: new Set(),
                value: undefined, // {payload}
                retained: false,
            });
        return this.topics.get(name);
    }

    #dropUnused(name, topic) {
        if (topic.publishers.size === 0 && topic.subscribers.size === 0 && !topic.retained)
            this.topics.delete(name);
    }

    /** Whether the value changed; subscribers are told. */
    #set(name, topic, payload) {
        if (topic.value && signature(topic.value.payload) === signature(payload)) return false;
        topic.value = { payload };
        for (const key of topic.subscribers) {
            try {
                this.clients.get(key)?.push("/-/topic/update", { topic: name, payload });
            } catch {
                // that one is about to leave
            }
        }
        return true;
    }

    #recompute(name, topic) {
        if (topic.retained) return;
        let best;
        for (const entry of topic.publishers.values())
            if (!best || entry.revision > best.revision) best = entry;
        if (best) this.#set(name, topic, best.payload);
        else topic.value = undefined;
    }

    #declare(key, { topic: name, payload, revision }) {
        const topic = this.#topic(name);
        const given = Number.isFinite(revision) && revision > 0;
        const held = given ? revision : ++this.#revision;
        this.#revision = Math.max(this.#revision, held);
        topic.publishers.set(key, { payload, revision: held });
        this.#recompute(name, topic);
        return held;
    }

    #update(key, data) {
        const topic = this.topics.get(data.topic);
        if (!topic) return Date.now();
        if (topic.publishers.has(key))
            return this.#declare(key, { topic: data.topic, payload: data.payload });
        return this.#set(data.topic, topic, data.payload) ? ++this.#revision : Date.now();
    }

    #topicRoutes() {
        const route = (path, body) =>
            this.register(path, ({ data, client }) => body(client.key, data));
        const leave = (set) => (key, data) => {
            const topic = this.topics.get(data.topic);
            if (!topic?.[set].delete(key)) return 0;
            if (set === "publishers") this.#recompute(data.topic, topic);
            this.#dropUnused(data.topic, topic);
            return 1;
        };
        route("/-/declare", (key, data) => this.#declare(key, data));
        route("/-/undeclare", leave("publishers"));
        route("/-/subscribe", (key, data) => {
            const topic = this.#topic(data.topic);
            topic.subscribers.add(key);
            return topic.value ? { hasData: true, ...topic.value } : { hasData: false };
        });
        route("/-/unsubscribe", leave("subscribers"));
        route("/-/topic/update", (key, data) => this.#update(key, data));
    }

    // --- configuration ---------------------------------------------------------------------

    #configs() {
        const out = new Map();
        for (const file of existsSync(this.configDir) ? readdirSync(this.configDir) : []) {
            const [, namespace] = /^(.+)\.config\.yaml$/.exec(file) ?? [];
            try {
                const value = JSON.parse(readFileSync(join(this.configDir, file), "utf8"));
                if (namespace && value && typeof value === "object") out.set(namespace, value);
            } catch {
                // half written, or no mapping: ignored
            }
        }
        return out;
    }

    #readConfig() {
        for (const [namespace, config] of this.#configs())
            for (const [key, value] of Object.entries(config)) {
                const name = `registry:${namespace}/${key}`;
                const topic = this.#topic(name);
                topic.retained = true;
                this.#set(name, topic, value);
            }
    }

    #envRoutes() {
        this.register("/-/env", ({ data }) => data.map((name) => process.env[name]));
        this.register("/-/env/variables", ({ data }) => {
            const configs = this.#configs();
            return data.map(({ namespace, fields }) => {
                const value = configs.get(namespace) ?? null;
                if (!fields || !value) return { namespace, value };
                const wanted = Object.entries(value).filter(([name]) => fields.includes(name));
                return { namespace, value: Object.fromEntries(wanted) };
            });
        });
    }
}
