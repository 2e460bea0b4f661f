// cluster_demo.mjs - the real client that the recordings of cluster-client were made with, as the
// README of the vectors describes it. Values belong to a `dataId`; subscribers hear of new ones.
//
// SPDX-License-Identifier: MIT
import { EventEmitter } from "node:events";
import { readFileSync } from "node:fs";
import { unpack } from "./cluster_values.mjs";

const UPSTREAM_MS = 15;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** An error whose stack is the same everywhere. */
function failure(message, { Kind = Error, name = Kind.name, ...more } = {}) {
    const error = new Kind(message);
    if (name !== error.name) error.name = name;
    return Object.assign(error, { stack: `${name}: ${message}\n    at fixed (stack)` }, more);
}

const FAILURES = {
    plain: () => failure("plain failure"),
    type: () => failure("type failure", { Kind: TypeError }),
    coded: () => failure("coded failure", { name: "CodedError", code: "E_CODED", status: 7 }),
    numcode: () => failure("numeric code", { code: 404 }),
    string: () => "just a string",
};

/** `how`: ready_after_ms, ready_error, values {dataId: value}, upstream: a file that holds the value
 *  of the dataId "up". */
export class DemoClient extends EventEmitter {
    constructor(how = {}) {
        super();
        this.values = new Map(Object.entries(how.values ?? {}).map(([id, v]) => [id, unpack(v)]));
        this.listeners_ = new Map();
        this.counters = { oneway: 0, upstreamSubscribes: 0 };
        this.becoming = sleep(how.ready_after_ms ?? 0).then(() => {
            if (how.ready_error)
                throw failure("upstream refused", { name: "UpstreamError", code: "E_UPSTREAM" });
        });
        this.becoming.catch(() => {});
        if (how.upstream) this.#follow(how.upstream);
    }

    #follow(file) {
        let last;
        this.polling = setInterval(() => {
            const text = readFileSync(file, "utf8");
            if (text === last) return;
            last = text;
            this.#set("up", Number(text));
        }, UPSTREAM_MS);
    }

    #set(dataId, value) {
        this.values.set(dataId, value);
        for (const listener of this.listeners_.get(dataId) ?? []) listener(value);
    }

    ready(callback) {
        return this.becoming.then(() => callback?.(), callback);
    }

    subscribe(reg, listener) {
        this.counters.upstreamSubscribes++;
        const id = reg?.dataId;
        this.listeners_.set(id, [...(this.listeners_.get(id) ?? []), listener]);
        if (this.values.has(id)) listener(this.values.get(id));
    }

    /** Nobody calls it; but only what exists is delegated. */
    unSubscribe() {}

    publish({ dataId, value }) {
        this.#set(dataId, value);
    }

    async unPublish({ dataId }) {
        this.#set(dataId, null);
    }

    close() {
        clearInterval(this.polling);
    }

    async ping() {
        return "pong";
    }

    async echoOne(value) {
        return value;
    }

    async echo(...values) {
        return values.slice(0, -1); // the last one is the callback of the leader
    }

    async argc(...values) {
        return values.length;
    }

    async nothing() {}

    async nul() {
        return null;
    }

    async slow(ms) {
        await sleep(ms);
        return `slept ${ms}`;
    }

    async get(id) {
        if (this.values.has(id)) return this.values.get(id);
        throw failure(`no such id: ${id}`, { name: "NotFoundError", code: "E_NOT_FOUND" });
    }

    async fail(kind) {
        throw FAILURES[kind]();
    }

    withCallback(a, b, callback) {
        setImmediate(callback, null, a + b);
    }

    withCallbackErr(a, callback) {
        const stack = "Error: cb failure\n    at fixed (stack)";
        setImmediate(callback, failure(`cb failure ${a}`, { code: "E_CB", stack }));
    }

    never() {}

    throwNow() {
        throw new Error("thrown at once");
    }

    async note() {
        this.counters.oneway++;
    }

    async noteReject() {
        throw new Error("rejected oneway");
    }

    async getCounters() {
        return { ...this.counters };
    }

    async flood(dataId, count, batch, size) {
        const pad = "x".repeat(size);
        for (let seq = 1; seq <= count; seq++) {
            this.#set(dataId, { seq, t: Date.now(), pad });
            if (seq % batch === 0) await sleep(0);
        }
        return count;
    }
}

/** The kinds of its methods, for whoever declares them. */
export const KINDS = {
    withCallback: "invoke",
    withCallbackErr: "invoke",
    never: "invoke",
    note: "invokeOneway",
    noteReject: "invokeOneway",
    unPublish: "invokeOneway",
};

/** The same without a method to subscribe with. */
export class MuteClient extends DemoClient {}
MuteClient.prototype.subscribe = undefined;
