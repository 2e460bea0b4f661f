// micro_application.mjs - the Application of micro.mjs: the registry link, get, call, stream,
// publish and subscribe (spec, sections 12 to 19).
//
// SPDX-License-Identifier: MIT
import { randomUUID } from "node:crypto";
import { HEARTBEAT, Server } from "./micro.mjs";
import { Breaker, SimpleBreaker } from "./micro_breaker.mjs";
import { signature } from "./micro_registry.mjs";

const ENTRY = { idle: 0, pending: 1, ready: 2 };

/** Data of a call of 1.0.5: scalars are wrapped, objects get a correlation id. */
function correlate(data) {
    const _correlationId = randomUUID();
    if (data === undefined) return { _correlationId };
    if (data === null || typeof data !== "object" || Array.isArray(data))
        return { _correlationId, data };
    return data._correlationId ? data : { ...data, _correlationId };
}

export function checkAddress(what, { host, port }) {
    const fine =
        typeof host === "string" &&
        host.length > 0 &&
        host.length <= 253 &&
        !/[\s/?]/.test(host) &&
        (!host.includes(":") || /^\[.*\]$/.test(host)) &&
        Number.isInteger(port) &&
        port >= 1 &&
        port <= 65535;
    if (!fine) throw new Error(`${what}: ${host}:${port}`);
}

export class Application extends Server {
    registry = undefined;
    #entries = new Map(); // namespace -> {state, host, port, waiters}
    #stopped = true;
    #generation = 0;
    #retryTimer;
    #beatTimer;
    #connecting;
    #published = new Map(); // topic -> {payload, revision, version, signature, dirty}
    #subscribed = new Map(); // topic -> Set of callbacks
    #arrived = new Map(); // topic -> number of updates
    #queues = new Map(); // topic -> the last operation
    #version = 0;

    constructor(options) {
        super(options);
        const { registry, requestTimeoutMs = 30000, registryLookupTimeoutMs = 10000 } = options;
        checkAddress("Invalid registry address", registry);
        this.registryAddress = registry;
        this.limits = { requestTimeoutMs, registryLookupTimeoutMs };
        this.reconnectMs = options.reconnectMs ?? 3000;
        this.breaker = this.v1
            ? new SimpleBreaker(options.breaker)
            : new Breaker(options.breaker);
        this.register("/-/health", () => ({
            status: "ok",
            registry: this.registry !== undefined,
            uptime: process.uptime(),
            namespaces: [...this.#entries.keys()],
        }));
        if (!this.v1)
            this.register("/-/topic/update", ({ data }) => {
                this.#arrived.set(data.topic, (this.#arrived.get(data.topic) ?? 0) + 1);
                for (const callback of this.#subscribed.get(data.topic) ?? [])
                    this.#deliver(callback, data.payload).catch(() => {});
                return Date.now();
            });
        this.on("disconnect", (client) => this.#lost(client));
    }

    // --- the registry link -----------------------------------------------------------------

    async listen(port) {
        await super.listen(port);
        this.#stopped = false;
        this.#generation++;
        try {
            await this.#connectRegistry();
        } catch (error) {
            this.#stopped = true;
            await super.stop();
            throw error;
        }
        if (!this.v1) return;
        this.#beatTimer = setInterval(() => {
            try {
                this.registry?.push(HEARTBEAT, {});
            } catch {
                // it is about to be noticed
            }
        }, this.heartbeat.intervalMs);
    }

    async stop() {
        this.#stopped = true;
        clearInterval(this.#beatTimer);
        clearTimeout(this.#retryTimer);
        this.#generation++;
        this.registry = undefined;
        await super.stop();
    }

    #connectRegistry() {
        this.#connecting ??= this.#link().finally(() => {
            this.#connecting = undefined;
        });
        return this.#connecting;
    }

    async #link() {
        const { host, port } = this.registryAddress;
        const generation = this.#generation;
        const client = await this.connect(host, port, 5000);
        if (generation !== this.#generation || this.#stopped) {
            client.dispose();
            throw new Error("stopped meanwhile");
        }
        try {
            if (!this.v1) await this.#restore(client);
        } catch (error) {
            client.dispose();
            throw error;
        }
        this.registry = client;
    }

    #reconnect(afterMs) {
        if (this.#stopped) return;
        clearTimeout(this.#retryTimer);
        const attempt = () =>
            this.#connectRegistry().catch(() => this.#reconnect(this.reconnectMs));
        if (afterMs) this.#retryTimer = setTimeout(attempt, afterMs);
        else attempt();
    }

    #lost(client) {
        for (const [namespace, entry] of this.#entries)
            if (entry.host === client.host && entry.port === client.port)
                this.#entries.delete(namespace);
        if (client !== this.registry) return;
        this.registry = undefined;
        this.#reconnect(0);
    }

    // --- finding ---------------------------------------------------------------------------

    /** Resolves with a connection; `degrade` allows the excluded one when there is no other. */
    get(namespace, exclude, degrade = true) {
        let entry = this.#entries.get(namespace);
        if (!entry) {
            entry = { state: ENTRY.idle, waiters: [] };
            this.#entries.set(namespace, entry);
        }
        let old;
        if (entry.state === ENTRY.ready) {
            const key = `${entry.host}:${entry.port}`;
            const client = this.clients.get(key);
            if (client && !exclude?.includes(key)) return Promise.resolve(client);
            old = { host: entry.host, port: entry.port };
            Object.assign(entry, { state: ENTRY.idle, host: undefined, port: undefined });
        }
        return new Promise((resolve, reject) => {
            entry.waiters.push({ resolve, reject });
            if (entry.state !== ENTRY.idle) return;
            entry.state = ENTRY.pending;
            this.#lookup(namespace, entry, exclude, degrade && old);
        });
    }

    async #lookup(namespace, entry, exclude, old) {
        const end = (how, value) => {
            for (const waiter of entry.waiters.splice(0)) waiter[how](value);
        };
        const ready = (client) => {
            const { host, port } = client;
            Object.assign(entry, { state: ENTRY.ready, host, port });
            end("resolve", client);
        };
        try {
            const address = await this.#find(namespace, exclude);
            ready(await this.connect(address.host, address.port));
        } catch (error) {
            const spare = old && this.clients.get(`${old.host}:${old.port}`);
            if (spare) {
                ready(spare);
                return;
            }
            if (this.#entries.get(namespace) === entry) this.#entries.delete(namespace);
            end("reject", error);
        }
    }

    async #find(namespace, exclude) {
        if (!this.registry) throw new Error("Registry not found");
        const ms = this.limits.registryLookupTimeoutMs;
        const data = exclude ? { namespace, exclude } : { namespace };
        const address = await this.registry
            .request("/-/find", data, { timeout: ms > 0 ? ms : undefined })
            .catch((error) => {
                if (ms > 0 && (error.status === "ETIMEDOUT" || error.status === "ECONNABORTED"))
                    throw new Error(`Registry /-/find timed out after ${ms}ms`);
                throw error;
            });
        if (!address) throw new Error("Namespace not found");
        checkAddress("Invalid peer address from registry", address);
        return address;
    }

    // --- calling ---------------------------------------------------------------------------

    call(namespace, url, data, { timeout, retries = 1, signal } = {}) {
        const limit = timeout ?? this.limits.requestTimeoutMs;
        if (this.v1) return this.#callV1(namespace, url, correlate(data), limit, retries);
        return this.breaker.call(
            namespace,
            (exclude, degrade) => this.get(namespace, exclude, degrade),
            (client) => client.request(url, data, { timeout: limit, signal }),
            retries,
        );
    }

    async #callV1(namespace, url, data, timeout, retries) {
        let client;
        try {
            client = await this.get(namespace, this.breaker.excludes(namespace));
        } catch {
            this.breaker.forget(namespace);
            client = await this.get(namespace);
        }
        try {
            const value = await client.request(url, data, { timeout });
            this.breaker.success(namespace, client.key);
            return value;
        } catch (error) {
            this.breaker.failure(namespace, client.key);
            if (retries <= 0) throw error;
            return this.#callV1(namespace, url, data, timeout, retries - 1);
        }
    }

    async stream(namespace, url, data, { signal, retries = 1 } = {}) {
        const get = (exclude, degrade) => this.get(namespace, exclude, degrade);
        for (let first; ; retries--) {
            const selected = await this.breaker.select(namespace, get, !first).catch((error) => {
                throw first ?? error;
            });
            const { client, probe } = selected;
            const settle = (outcome, error) => {
                this.breaker[outcome]?.(namespace, client.key, probe, error);
                probe.giveBack();
            };
            try {
                const out = client.stream(url, data, { signal });
                let told = false;
                const once = (outcome) => (error) => {
                    if (!told) settle(outcome, error);
                    told = true;
                };
                out.once("error", once("failure"));
                out.once("end", once("success"));
                out.once("close", once("closed"));
                return out;
            } catch (error) {
                settle("failure", error);
                if (retries <= 0) throw error;
                first = error;
            }
        }
    }

    // --- topics ----------------------------------------------------------------------------

    async #deliver(callback, payload) {
        await callback(payload === undefined ? undefined : structuredClone(payload));
    }

    /** Operations of one topic run one after another. */
    #queue(topic, operation) {
        const run = (this.#queues.get(topic) ?? Promise.resolve()).then(operation);
        this.#queues.set(
            topic,
            run.catch(() => {}),
        );
        return run;
    }

    #topicRequest(client, url, data) {
        const ms = this.limits.registryLookupTimeoutMs;
        return client.request(url, data, { timeout: ms > 0 ? ms : 30000 });
    }

    /** One operation at the registry; a failure gives the connection up. */
    async #operate(url, data) {
        if (this.#stopped) return undefined;
        const client = this.registry;
        if (!client) {
            this.#reconnect(0);
            return undefined;
        }
        try {
            return { answer: await this.#topicRequest(client, url, data) };
        } catch {
            if (this.registry === client) this.registry = undefined;
            client.dispose();
            this.#reconnect(this.reconnectMs);
            return undefined;
        }
    }

    #checkTopics() {
        if (this.v1) throw new Error("1.0.5 has no topics");
        if (this.#stopped) throw new Error("Registry not found");
    }

    async publish(topic, data) {
        this.#checkTopics();
        const text = JSON.stringify(data);
        const payload = text === undefined ? undefined : JSON.parse(text);
        const mark = signature(payload);
        const before = this.#published.get(topic);
        const version = before?.signature === mark ? before.version : ++this.#version;
        this.#published.set(topic, {
            payload,
            revision: before?.revision,
            version,
            signature: mark,
            dirty: true,
        });
        await this.#queue(topic, async () => {
            const current = this.#published.get(topic);
            if (current?.version !== version) return;
            const done = await this.#operate("/-/declare", { topic, payload });
            this.#confirm(topic, version, done);
        });
        let handled = version;
        const mine = () => this.#published.get(topic)?.version === handled;
        return {
            update: async (next) => {
                if (!mine()) return;
                const copy = JSON.stringify(next);
                const same =
                    signature(copy === undefined ? undefined : JSON.parse(copy)) ===
                    this.#published.get(topic).signature;
                if (!same) handled = this.#version + 1;
                await this.publish(topic, next);
            },
            unpublish: async () => {
                if (!mine()) return;
                this.#published.delete(topic);
                await this.#queue(topic, () => this.#operate("/-/undeclare", { topic }));
            },
        };
    }

    #confirm(topic, version, done) {
        const current = this.#published.get(topic);
        if (done && current?.version === version)
            Object.assign(current, { revision: done.answer, dirty: false });
    }

    async subscribe(topic, callback) {
        this.#checkTopics();
        const off = async () => {
            const callbacks = this.#subscribed.get(topic);
            if (!callbacks?.delete(callback) || callbacks.size > 0) return;
            this.#subscribed.delete(topic);
            await this.#queue(topic, () => this.#operate("/-/unsubscribe", { topic }));
        };
        const callbacks = this.#subscribed.get(topic) ?? new Set();
        if (callbacks.has(callback)) return off;
        this.#subscribed.set(topic, callbacks.add(callback));
        const seen = this.#arrived.get(topic);
        await this.#queue(topic, async () => {
            const done = await this.#operate("/-/subscribe", { topic });
            try {
                await this.#snapshot(topic, callback, seen, done?.answer);
            } catch (error) {
                off();
                throw error;
            }
        });
        return off;
    }

    async #snapshot(topic, callback, seen, answer) {
        if (!answer?.hasData || !this.#subscribed.get(topic)?.has(callback)) return;
        if (this.#arrived.get(topic) === seen) await this.#deliver(callback, answer.payload);
    }

    /** After a reconnect, before the connection counts: everything once more. */
    async #restore(client) {
        for (const [topic, entry] of this.#published) {
            const { payload, revision, dirty, version } = entry;
            const data = { topic, payload };
            if (revision && !dirty) data.revision = revision;
            const answer = await this.#topicRequest(client, "/-/declare", data);
            this.#confirm(topic, version, { answer });
        }
        for (const [topic, callbacks] of this.#subscribed)
            for (const callback of callbacks) {
                const seen = this.#arrived.get(topic);
                const answer = await this.#topicRequest(client, "/-/subscribe", { topic });
                await this.#snapshot(topic, callback, seen, answer).catch(() => {});
            }
    }
}
