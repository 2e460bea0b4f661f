// micro_peer.mjs - registries, applications and servers of micro.mjs in one process, driven by JSON
// lines on standard input; micro_peer.lua does the same with those of znlrun. Every line is
// {n, cmd, ...}, every answer {re: n, ok, value} or {re: n, ok: false, code, error, name}.
// Members that are undefined are absent, in data as well as in results.
//
// Commands. `as` names the object, "app" unless given:
//   start     role (application, registry, server), flavour, namespace, port, registry {host, port},
//             and whatever of OPTIONS below the role knows -> {}
//   stop  restart port
//   get       namespace exclude             -> {key}
//   call      namespace url data timeout_ms retries retry abort_after_ms -> {data}
//   request   the same over get(namespace), no retry
//   back      url data timeout_ms: asks the connection that asked this object last -> {data}
//   push      namespace url data
//   stream    namespace url data take abort_after_ms -> {chunks, error?: {status, message, name}}
//   call_many namespace url data count at_once timeout_ms retries -> {ok, failed, ms}
//   publish   topic data; update topic data; unpublish topic
//   subscribe topic label; unsubscribe topic label
//   connect   host port
//   clients   -> keys of the connections; log -> what /log was given; runs -> how often /slow ran
//   exit
// Events: topic {as, label, data}; cancelled {as, url}; connected / disconnected {as, key}.
//
// SPDX-License-Identifier: MIT
import { createInterface } from "node:readline";
import { Exception, Server } from "./micro.mjs";
import { Application } from "./micro_application.mjs";
import { Registry } from "./micro_registry.mjs";

const write = (object) => process.stdout.write(`${JSON.stringify(object)}\n`);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const objects = new Map(); // name -> {node, config, log, runs, asker, topics, offs}

const ROLES = { application: Application, registry: Registry, server: Server };

/** The options of micro.mjs from the words of the commands. */
const options = (config) => ({
    flavour: config.flavour,
    namespace: config.namespace,
    advertiseHost: config.advertise_host,
    registry: config.registry,
    requestTimeoutMs: config.request_timeout_ms,
    registryLookupTimeoutMs: config.registry_lookup_timeout_ms,
    reconnectMs: config.reconnect_ms,
    configDir: config.config_dir,
    envRoutes: config.env_routes,
    breaker: config.breaker && { failureThreshold: config.breaker.failure_threshold },
    heartbeat: config.heartbeat_ms && {
        intervalMs: config.heartbeat_ms,
        timeoutMs: config.heartbeat_timeout_ms,
        checkMs: config.heartbeat_check_ms,
    },
});

/** The routes every object here has; micro_peer.lua has the same. */
function routes(object, as) {
    const { node, config } = object;
    const route = (path, handler) =>
        node.register(path, (given) => {
            object.asker = given.client;
            return handler(given);
        });
    const counted = async function* (count, each = () => {}) {
        for (let seq = 1; seq <= count; seq++) {
            await each(seq);
            yield { seq };
        }
    };
    const raise = (error) => {
        throw error;
    };
    route("/echo", ({ data }) => data);
    route("/slow", async ({ data, serving }) => {
        object.runs++;
        await sleep(data?.ms ?? config.slow_ms ?? 300);
        if (serving?.aborted) write({ ev: "cancelled", as, url: "/slow" });
        return data?.ms ? { waited: data.ms } : { run: object.runs };
    });
    route("/fail", () => raise(new Error("boom")));
    route("/fail/status", () => raise(new Exception(418, "teapot")));
    route("/fail/code", () => raise(new Exception("E_BUSINESS", "rejected")));
    route("/null", () => null);
    route("/undefined", () => undefined);
    route("/users/:id", ({ params, url, data }) => ({ params, url, data }));
    route("/files/**", ({ params }) => ({ params }));
    route("/e-field", () => ({ e: { message: "not an error" } }));
    route("/callback", async ({ client, data }) => ({
        reply: await client.request(data.url, data.data),
    }));
    route("/name", ({ data }) => ({ name: config.namespace, data }));
    route("/log", ({ data }) => {
        object.log.push(data);
    });
    route("/api", () =>
        config.api_fails ? raise(new Error("A fail")) : { from: config.api_name ?? as },
    );
    route("/key", () => ({ key: `${node.host}:${node.port}` }));
    route("/stream", () => counted(3));
    route("/stream/count", ({ data }) => counted(data.count));
    route("/stream/slow", () => counted(100, (seq) => (seq > 1 ? sleep(40) : undefined)));
    route("/stream/fail", () =>
        counted(2, (seq) => seq > 1 && raise(new Error("hidden from the asker"))),
    );
    route("/stream/exception", () =>
        counted(2, (seq) => seq > 1 && raise(new Exception(409, "conflict"))),
    );
    route("/stream/values", async function* () {
        yield* ["text", 7, null, [1, 2]];
    });
}

const after = (ms) => (ms ? AbortSignal.timeout(ms) : undefined);

async function client(object, { namespace, exclude, host, port }) {
    if (host) return object.node.connect(host, port);
    return object.node.get(namespace, exclude);
}

const commands = {
    async start({ as = "app", ...config }) {
        const object = { config, log: [], runs: 0, topics: new Map(), offs: new Map() };
        object.node = new ROLES[config.role](options(config));
        objects.set(as, object);
        object.node.on("connect", ({ key }) => write({ ev: "connected", as, key }));
        object.node.on("disconnect", ({ key }) => write({ ev: "disconnected", as, key }));
        if (config.role !== "registry") routes(object, as);
        await object.node.listen(config.port);
        return {};
    },
    stop: ({ object }) => object.node.stop(),
    restart: ({ object }) => object.node.listen(object.config.port),
    port: ({ object }) => object.node.port,
    async get(given) {
        return { key: (await client(given.object, given)).key };
    },
    async call({ object, namespace, url, data, timeout_ms, retries, abort_after_ms }) {
        const signal = after(abort_after_ms);
        const how = { timeout: timeout_ms, retries, signal };
        return { data: await object.node.call(namespace, url, data, how) };
    },
    async request(given) {
        const { url, data, timeout_ms, abort_after_ms } = given;
        const to = await client(given.object, given);
        const how = { timeout: timeout_ms, signal: after(abort_after_ms) };
        return { data: await to.request(url, data, how) };
    },
    async back({ object, url, data, timeout_ms }) {
        return { data: await object.asker.request(url, data, { timeout: timeout_ms }) };
    },
    async push(given) {
        (await client(given.object, given)).push(given.url, given.data);
    },
    async stream({ object, namespace, url, data, take, abort_after_ms, idle_ms }) {
        const chunks = [];
        try {
            const how = { signal: after(abort_after_ms) };
            const chunksOf = await object.node.stream(namespace, url, data, how);
            if (idle_ms) await sleep(idle_ms);
            for await (const chunk of chunksOf) {
                chunks.push(chunk);
                if (chunks.length === take) break;
            }
        } catch (error) {
            const { status, message, name } = error;
            return { chunks, error: { status, message, name } };
        }
        return { chunks };
    },
    async call_many({ object, namespace, url, data, count, at_once = 50, ...more }) {
        const began = performance.now();
        const failed = {};
        let ok = 0;
        let left = count;
        const worker = async () => {
            while (left-- > 0)
                try {
                    const how = { timeout: more.timeout_ms, retries: more.retries };
                    await object.node.call(namespace, url, data, how);
                    ok++;
                } catch (error) {
                    const code = `${error.status ?? ""} ${error.message}`.trim();
                    failed[code] = (failed[code] ?? 0) + 1;
                }
        };
        await Promise.all(Array.from({ length: at_once }, worker));
        return { ok, failed, ms: Math.round(performance.now() - began) };
    },
    async publish({ object, topic, data }) {
        object.topics.set(topic, await object.node.publish(topic, data));
    },
    update: ({ object, topic, data }) => object.topics.get(topic).update(data),
    unpublish: ({ object, topic }) => object.topics.get(topic).unpublish(),
    async subscribe({ object, as = "app", topic, label = topic }) {
        const seen = (data) => write({ ev: "topic", as, label, data });
        object.offs.set(label, await object.node.subscribe(topic, seen));
    },
    unsubscribe: ({ object, topic, label = topic }) => object.offs.get(label)(),
    async connect({ object, host, port }) {
        return { key: (await object.node.connect(host, port)).key };
    },
    clients: ({ object }) => [...object.node.clients.keys()],
    log: ({ object }) => object.log,
    runs: ({ object }) => object.runs,
    exit: () => process.exit(0),
};

async function run(line) {
    const { n, cmd, ...given } = JSON.parse(line);
    try {
        if (!Object.hasOwn(commands, cmd)) throw new Error(`unknown command ${cmd}`);
        if (cmd !== "start") given.object = objects.get(given.as ?? "app");
        write({ re: n, ok: true, value: await commands[cmd](given) });
    } catch (error) {
        write({
            re: n,
            ok: false,
            code: error.status ?? "ERROR",
            error: String(error.message ?? error),
            name: error.name,
        });
    }
}

process.on("unhandledRejection", (error) =>
    write({ ev: "unhandled", message: String(error?.stack ?? error) }),
);
createInterface({ input: process.stdin })
    .on("line", run)
    .on("close", () => process.exit(0));
