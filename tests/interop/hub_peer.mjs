// hub_peer.mjs - a foreign instance in a process, driven by JSON lines on standard input;
// hub_peer.lua does the same with a hub of znlrun. Every line is {n, cmd, ...}, every answer
// {re: n, ok, value} or {re: n, ok: false, code, error, name}.
//
// Commands. `as` names the instance, "instance" unless given:
//   start      app bus host prefix driver ttl_ms ping_ms reconnect_ms, and id here, limits there
//              -> {port}
//   roster     ns -> [{sessionId, userId, metadata}];  count  ns -> number of them
//   broadcast  ns channel message except;  direct user_id message
//   burst      ns count from -> ms: broadcasts {type: "n", payload: from, from + 1, ...}
//   crowd      ns count: members without connections, named <as>-<number>
//   stop;  connected -> boolean;  exit
// Here alone:
//   view -> the members with owners;  publish  subject text: whatever it says, as the instance does
//   forget  session_id: a leave without a connection
//
// SPDX-License-Identifier: MIT
import { connect } from "nats";
import { createInterface } from "node:readline";
import { DemoApplication } from "./hub_instance.mjs";

const write = (object) => process.stdout.write(`${JSON.stringify(object)}\n`);
const instances = new Map(); // name -> {application, bus, connected}

const commands = {
    async start({ as = "instance", app = "main", bus: servers, host, prefix, driver, ...more }) {
        const {
            ttl_ms: ttlMs,
            ping_ms: pingInterval,
            reconnect_ms: reconnectTimeWait = 200,
            id,
        } = more;
        const bus = await connect({
            servers,
            name: as,
            pingInterval,
            maxReconnectAttempts: -1,
            reconnectTimeWait,
        });
        const application = new DemoApplication({ bus, app, id, prefix, driver, ttlMs });
        const object = { application, bus, connected: true };
        instances.set(as, object);
        (async () => {
            for await (const { type } of bus.status()) {
                if (type === "disconnect") object.connected = false;
                if (type === "reconnect") object.connected = true;
            }
        })();
        await application.start({ host });
        return { port: application.port };
    },
    roster: ({ hub, ns }) => hub.roster(ns),
    count: ({ hub, ns }) => hub.roster(ns).length,
    view: ({ hub }) => hub.view(),
    broadcast: ({ hub, ns, channel, message, except: exceptSessionIds }) =>
        hub.broadcast({ ns, channel, message, exceptSessionIds }),
    direct: ({ hub, user_id, message }) => hub.directToUser(user_id, message),
    async burst({ hub, object, ns, count, from = 0 }) {
        const began = performance.now();
        for (let i = from; i < from + count; i++) {
            hub.broadcast({ ns, message: { type: "n", payload: i } });
            if (i % 500 === 499) await object.bus.flush();
        }
        return Math.round(performance.now() - began);
    },
    async crowd({ hub, object, as = "instance", ns, count }) {
        for (let i = 0; i < count; i++) {
            hub.rosterAdd({ ns, sessionId: `${as}-${i}`, userId: `user ${i}`, metadata: { i } });
            if (i % 500 === 499) await object.bus.flush();
        }
        await object.bus.flush();
    },
    forget: ({ hub, session_id }) => hub.rosterRemove(session_id),
    publish: ({ object, subject, text }) => object.bus.publish(subject, text),
    async stop({ object }) {
        await object.application.stop();
        await object.bus.close();
    },
    connected: ({ object }) => object.connected,
    exit: () => process.exit(0),
};

async function run(line) {
    const { n, cmd, ...given } = JSON.parse(line);
    try {
        if (!Object.hasOwn(commands, cmd)) throw new Error(`unknown command ${cmd}`);
        if (cmd !== "start") {
            given.object = instances.get(given.as ?? "instance");
            given.hub = given.object?.application.hub;
        }
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
