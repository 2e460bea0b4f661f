// micro_breaker.mjs - which instances a caller avoids, in both releases (spec, sections 15, 16).
// Plain state: the clock and the lookup are passed in.
//
// SPDX-License-Identifier: MIT

/** 1.0.5: one failure excludes an instance for 30 s. */
export class SimpleBreaker {
    #failed = new Map();
    #cooldownMs;
    #now;

    constructor({ cooldownMs = 30000, now = Date.now } = {}) {
        this.#cooldownMs = cooldownMs;
        this.#now = now;
    }

    excludes(namespace) {
        const peers = this.#failed.get(namespace) ?? new Map();
        for (const [key, at] of peers)
            if (this.#now() - at >= this.#cooldownMs) peers.delete(key);
        return [...peers.keys()];
    }

    success(namespace, key) {
        this.#failed.get(namespace)?.delete(key);
    }

    failure(namespace, key) {
        if (!this.#failed.has(namespace)) this.#failed.set(namespace, new Map());
        this.#failed.get(namespace).set(key, this.#now());
    }

    forget(namespace) {
        this.#failed.delete(namespace);
    }
}

const DEFAULTS = {
    failureThreshold: 3,
    failureWindowMs: 60000,
    successThreshold: 2,
    cooldownMs: 10000,
    maxCooldownMs: 120000,
    halfOpenMaxProbes: 1,
};

/** 2.0.15: closed, open, half-open per instance. */
export class Breaker {
    #records = new Map(); // namespace -> Map of key -> record
    #now;

    constructor(options = {}, now = Date.now) {
        this.options = { shouldRecordFailure: () => true, shouldRetry: () => true };
        for (const [name, standard] of Object.entries(DEFAULTS)) {
            const value = Math.trunc(options[name]);
            this.options[name] = value >= 1 ? value : standard;
        }
        this.options.maxCooldownMs = Math.max(
            this.options.maxCooldownMs,
            this.options.cooldownMs,
        );
        for (const hook of ["shouldRecordFailure", "shouldRetry"])
            if (options[hook]) this.options[hook] = options[hook];
        this.#now = now;
    }

    record(namespace, key) {
        return this.#records.get(namespace)?.get(key);
    }

    /** A hook that throws means "record" and "do not retry". */
    shouldRetry(error) {
        try {
            return this.options.shouldRetry(error);
        } catch {
            return false;
        }
    }

    #shouldRecord(error) {
        try {
            return this.options.shouldRecordFailure(error);
        } catch {
            return true;
        }
    }

    #excludes(namespace) {
        const o = this.options;
        const now = this.#now();
        const peers = this.#records.get(namespace) ?? new Map();
        const out = { list: [], limited: false };
        for (const [key, r] of peers) {
            if (r.status === "closed" && now - r.lastFailureAt >= o.failureWindowMs)
                peers.delete(key);
            else if (r.status === "open" && now >= r.nextAttemptAt) {
                r.status = "half-open";
                r.successes = 0;
                r.probes = 0;
            } else if (r.status === "open") out.list.push(key);
            if (r.status === "half-open" && r.probes >= o.halfOpenMaxProbes) {
                out.list.push(key);
                out.limited = true;
            }
        }
        return out;
    }

    #probe(namespace, key) {
        const r = this.record(namespace, key);
        if (r?.status === "open") return { granted: false, was: "open" };
        if (r?.status !== "half-open") return { granted: true, was: "closed", giveBack() {} };
        if (r.probes >= this.options.halfOpenMaxProbes)
            return { granted: false, was: "half-open" };
        r.probes++;
        let out = true;
        return {
            granted: true,
            was: "half-open",
            cooldownMs: r.cooldownMs,
            giveBack() {
                if (out && r.status === "half-open") r.probes--;
                out = false;
            },
        };
    }

    success(namespace, key, probe) {
        const r = this.record(namespace, key);
        if (!r) return;
        const peers = this.#records.get(namespace);
        if (probe.was === "closed") {
            if (r.status === "closed") peers.delete(key);
        } else if (r.status === "half-open") {
            r.failures = 0;
            if (++r.successes >= this.options.successThreshold) peers.delete(key);
        }
    }

    failure(namespace, key, probe, error) {
        if (!this.#shouldRecord(error)) return;
        const o = this.options;
        const now = this.#now();
        const open = (r, cooldownMs) =>
            Object.assign(r, {
                status: "open",
                successes: 0,
                cooldownMs,
                nextAttemptAt: now + cooldownMs,
                lastFailureAt: now,
                probes: 0,
            });
        let r = this.record(namespace, key);
        if (probe.was === "half-open") {
            if (r?.status !== "half-open") return;
            const cooldownMs = 2 * Math.max(r.cooldownMs, probe.cooldownMs);
            open(r, Math.min(cooldownMs, o.maxCooldownMs));
            r.failures = Math.max(r.failures, 1);
            return;
        }
        if (r && r.status !== "closed") return;
        if (!r) {
            r = { status: "closed", failures: 0, successes: 0, cooldownMs: o.cooldownMs };
            Object.assign(r, { nextAttemptAt: null, lastFailureAt: now, probes: 0 });
            if (!this.#records.has(namespace)) this.#records.set(namespace, new Map());
            this.#records.get(namespace).set(key, r);
        }
        if (now - r.lastFailureAt >= o.failureWindowMs) r.failures = 0;
        r.failures++;
        r.lastFailureAt = now;
        if (r.failures >= o.failureThreshold) open(r, o.cooldownMs);
    }

    /**
     * The connection to use and the probe that allows it. `get(exclude, degrade)` finds a
     * connection with a `key`; `exclude` is undefined for a lookup without a list.
     */
    async select(namespace, get, reset) {
        const pick = async (fallback) => {
            const { list, limited } = this.#excludes(namespace);
            try {
                return await get(list, fallback && !limited);
            } catch (error) {
                if (!fallback || limited) throw error;
                this.#records.delete(namespace);
                return get(undefined, true);
            }
        };
        let client = await pick(reset);
        let probe = this.#probe(namespace, client.key);
        if (probe.granted) return { client, probe };
        let half = probe.was === "half-open";
        let spare = probe.was === "open" ? client : undefined;
        try {
            client = await pick(false);
            probe = this.#probe(namespace, client.key);
            if (probe.granted) return { client, probe };
            half ||= probe.was === "half-open";
            if (probe.was === "open") spare = client;
        } catch (error) {
            if (!reset) throw error;
        }
        if (!reset || half)
            throw new Error(`Circuit breaker probe unavailable for ${namespace}`);
        this.#records.delete(namespace);
        client = spare ?? (await get(undefined, true));
        return { client, probe: this.#probe(namespace, client.key) };
    }

    /** One call: `request(client)` is tried, after a failure up to `retries` times more. */
    async call(namespace, get, request, retries = 1) {
        let first;
        for (;;) {
            let selected;
            try {
                selected = await this.select(namespace, get, !first);
            } catch (error) {
                throw first ?? error;
            }
            const { client, probe } = selected;
            try {
                const value = await request(client);
                this.success(namespace, client.key, probe);
                probe.giveBack();
                return value;
            } catch (error) {
                this.failure(namespace, client.key, probe, error);
                probe.giveBack();
                if (retries <= 0 || !this.shouldRetry(error)) throw error;
                first = error;
                retries--;
            }
        }
    }
}
