// hub_node.mjs - the yardstick of the hub benchmarks: what an instance on npm's nats and ws must do, and no more.
//
//   hub_node.mjs publish URL SECONDS          publishes broadcasts as fast as the server takes them; prints the result
//   hub_node.mjs receive URL SECONDS          counts broadcasts of others; prints ready, then the result
//   hub_node.mjs serve URL PORT               hands broadcasts to its WebSocket clients; prints ready
//
// Uses the packages of tests/interop (npm ci there). SPDX-License-Identifier: MIT
import path from "node:path";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const interop = createRequire(path.join(here, "../interop/package.json"));
const { connect, StringCodec } = interop("nats");

const SUBJECT = "mega.ws.bench.bcast";
const NS = "/ws/bench";
const BATCH = 1000;
const LANES = 4;
const WARM_UP_MS = 500;
const TEXT = "x".repeat(100);
const codec = StringCodec();

const [what, url, argument] = process.argv.slice(2);
const id = Math.random().toString(36).slice(2);
const nc = await connect({ servers: url, noEcho: true });

const report = (fields) => {
    console.log(
        Object.entries(fields)
            .map(([name, value]) => `${name}=${value}`)
            .join(" "),
    );
    process.exit(0);
};

const measured = async (seconds, count) => {
    await new Promise((resolve) => setTimeout(resolve, WARM_UP_MS));
    const cpu = process.cpuUsage();
    const from = process.hrtime.bigint();
    const before = count();
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
    const took = Number(process.hrtime.bigint() - from) / 1e9;
    const used = process.cpuUsage(cpu);
    const total = count() - before;
    return { rate: (total / took).toFixed(0), cpu_us: ((used.user + used.system) / Math.max(total, 1)).toFixed(3), total };
};

/** Broadcasts of others, as the class reads them. */
const subscribe = (deliver) => {
    nc.subscribe(SUBJECT, {
        callback: (error, message) => {
            if (error) return;
            const entry = JSON.parse(codec.decode(message.data));
            if (entry.o === id || typeof entry.message?.type !== "string") return;
            deliver(entry);
        },
    });
};

if (what === "publish") {
    let sent = 0;
    let over = false;
    const run = async () => {
        while (!over) {
            for (let i = 0; i < BATCH; i++) {
                const entry = { o: id, ns: NS, message: { type: "tick", payload: { n: sent++, text: TEXT } } };
                nc.publish(SUBJECT, codec.encode(JSON.stringify(entry)));
            }
            await nc.flush();
        }
    };
    const lanes = Array.from({ length: LANES }, run);
    const result = await measured(Number(argument), () => sent);
    over = true;
    await Promise.all(lanes);
    report(result);
} else if (what === "receive") {
    let received = 0;
    subscribe(() => received++);
    await nc.flush();
    console.log("ready");
    while (received === 0) await new Promise((resolve) => setTimeout(resolve, 5));
    report(await measured(Number(argument), () => received));
} else if (what === "serve") {
    const { WebSocketServer } = interop("ws");
    const server = new WebSocketServer({ host: "127.0.0.1", port: Number(argument) });
    subscribe(({ ns, channel, message, exceptSessionIds }) => {
        const text = JSON.stringify({ type: message.type, payload: message.payload });
        for (const client of server.clients) {
            if (client.readyState !== 1 || ns !== NS || channel !== undefined) continue;
            if (exceptSessionIds?.includes(client.sessionId)) continue;
            client.send(text);
        }
    });
    await Promise.all([nc.flush(), new Promise((resolve) => server.on("listening", resolve))]);
    console.log("ready");
} else {
    console.error("hub_node.mjs publish|receive|serve URL …");
    process.exit(2);
}
