// cluster_peer.mjs - clients of the npm package cluster-client in one process, driven by JSON lines on
// standard input; cluster_peer.lua does the same with those of znlrun. Every line is {n, cmd, ...},
// every answer {re: n, ok, value} or {re: n, ok: false, code, error, name}. Values are in the notation
// of cluster_values.mjs.
//
// Commands. `as` names the client, "client" unless given:
//   start        port, name and whatever of OPTIONS below is wanted; demo {ready_after_ms, ready_error,
//                subscribe: false, values, upstream}; wait: false does not wait -> {leader}
//   ready        waits for it -> {leader}
//   invoke       method args -> value
//   oneway       method args;  publish reg
//   subscribe    reg text label quiet;  unsubscribe reg text label (without: all listeners); text is
//                JSON.stringify(reg), for those whose tables know no order
//   seen         label -> {count, last, ordered}: what a subscription got; ordered by `seq`
//   invoke_many  method arg count at_once -> {ok, failed, ms}
//   close;  leads -> boolean;  exit
// Events: value {as, label, value} unless quiet; ready {as, leader, error}; lost {as};
//   error {as, name, message}; unhandled {message}.
//
// SPDX-License-Identifier: MIT
import cluster from "cluster-client";
import { createInterface } from "node:readline";
import { DemoClient, KINDS, MuteClient } from "./cluster_demo.mjs";
import { pack, unpack } from "./cluster_values.mjs";

const write = (object) => process.stdout.write(`${JSON.stringify(object)}\n`);
const clients = new Map(); // name -> {client, subscriptions: label -> {listener, count, last, ordered}}

const OPTIONS = {
    name: "name",
    port: "port",
    leader: "isLeader",
    response_timeout_ms: "responseTimeout",
    heartbeat_ms: "heartbeatInterval",
    check_heartbeat: "isCheckHeartbeat",
    max_wait_ms: "maxWaitTime",
    connect_timeout_ms: "connectTimeout",
    subscribe_timeout_ms: "subscribeTimeout",
    broadcast: "isBroadcast",
    single: "singleMode",
};
const JSON_TEXT = {
    encode: (value) => Buffer.from(JSON.stringify(value) ?? "null"),
    decode: (bytes) => JSON.parse(bytes),
};
const silent = () => {};
const logger = { debug: silent, info: silent, warn: silent, error: silent };

function options(config) {
    const out = { name: "DemoClient", logger };
    for (const [ours, theirs] of Object.entries(OPTIONS))
        if (config[ours] !== undefined) out[theirs] = config[ours];
    if (config.transcode === "json") out.transcode = JSON_TEXT;
    return out;
}

/** Says when the client is ready, now and after each loss. */
function watch(object, as) {
    const { client } = object;
    const announce = () =>
        client.ready((error) => {
            if (object.closing) return;
            write({ ev: "ready", as, leader: client.isClusterClientLeader, error: error?.message });
        });
    client.on("error", ({ name, message }) => write({ ev: "error", as, name, message }));
    client.on("close", () => {
        if (object.closing) return;
        write({ ev: "lost", as });
        announce();
    });
    announce();
}

async function ready({ client }) {
    await client.ready();
    return { leader: client.isClusterClientLeader };
}

const commands = {
    async start({ as = "client", demo = {}, wait = true, ...config }) {
        const generator = cluster(
            demo.subscribe === false ? MuteClient : DemoClient,
            options(config),
        );
        for (const [method, kind] of Object.entries(KINDS)) generator.delegate(method, kind);
        const object = { client: generator.create(demo), subscriptions: new Map() };
        clients.set(as, object);
        watch(object, as);
        return wait ? ready(object) : null;
    },
    ready: ({ object }) => ready(object),
    invoke: async ({ object, method, args = [] }) =>
        pack(await object.client[method](...unpack(args))),
    oneway: ({ object, method, args = [] }) => object.client[method](...unpack(args)),
    publish: ({ object, reg }) => object.client.publish(unpack(reg)),
    subscribe({ object, as = "client", reg, label, quiet }) {
        const seen = { count: 0, ordered: true };
        seen.listener = (value) => {
            if (value?.seq <= seen.last?.seq) seen.ordered = false;
            seen.count++;
            seen.last = value;
            if (!quiet) write({ ev: "value", as, label, value: pack(value) });
        };
        object.subscriptions.set(label, seen);
        object.client.subscribe(unpack(reg), seen.listener);
    },
    unsubscribe({ object, reg, label }) {
        object.client.unSubscribe(unpack(reg), object.subscriptions.get(label)?.listener);
    },
    seen({ object, label }) {
        const { count, last, ordered } = object.subscriptions.get(label);
        return { count, last: pack(last), ordered };
    },
    async invoke_many({ object, method, arg, count, at_once = 50 }) {
        const began = performance.now();
        const failed = {};
        let ok = 0;
        let left = count;
        const worker = async () => {
            while (left-- > 0)
                try {
                    await object.client[method](unpack(arg));
                    ok++;
                } catch (error) {
                    failed[error.name] = (failed[error.name] ?? 0) + 1;
                }
        };
        await Promise.all(Array.from({ length: at_once }, worker));
        return { ok, failed, ms: Math.round(performance.now() - began) };
    },
    async close({ object }) {
        object.closing = true;
        await cluster.close(object.client);
    },
    leads: ({ object }) => object.client.isClusterClientLeader === true,
    exit: () => process.exit(0),
};

async function run(line) {
    const { n, cmd, ...given } = JSON.parse(line);
    try {
        if (!Object.hasOwn(commands, cmd)) throw new Error(`unknown command ${cmd}`);
        if (cmd !== "start") given.object = clients.get(given.as ?? "client");
        write({ re: n, ok: true, value: (await commands[cmd](given)) ?? null });
    } catch (error) {
        const { code = "ERROR", name } = error;
        write({ re: n, ok: false, code, error: String(error.message ?? error), name });
    }
}

process.on("unhandledRejection", (error) =>
    write({ ev: "unhandled", message: String(error?.stack ?? error) }),
);
createInterface({ input: process.stdin })
    .on("line", run)
    .on("close", () => process.exit(0));
