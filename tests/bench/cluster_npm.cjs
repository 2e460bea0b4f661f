// cluster_npm.cjs - the yardstick of the cluster benchmarks: npm's cluster-client, asked the same as cluster.lua.
//
//   cluster_npm.cjs lead PORT                              leads; prints ready
//   cluster_npm.cjs call PORT KIND IN_FLIGHT SECONDS       echo calls of one follower; prints the result
//   cluster_npm.cjs fan PORT FOLLOWERS SECONDS             so many followers of one key; prints the result
//   cluster_npm.cjs member PORT                            one of a fleet; prints whom it sees lead, and when
//
// KIND: string (100 bytes), object (5 fields), buffer (1 KiB). Uses the packages of tests/interop (npm ci there).
//
// SPDX-License-Identifier: MIT
"use strict";
const path = require("node:path");
const { createRequire } = require("node:module");
const interop = createRequire(path.join(__dirname, "../interop/package.json"));
const cluster = interop("cluster-client");
const Base = createRequire(interop.resolve("cluster-client"))("sdk-base");

const WARM_UP_MS = 500;
const BATCH = 50; // values asked for at once
const LANES = 4; // batches under way
const TEXT = "x".repeat(108); // makes a value of about 140 bytes as transcode text
const DELEGATES = ["echo", "flood"];

const nowUs = () => Number(process.hrtime.bigint() / 1000n);

// --- the real client -------------------------------------------------------------------------

class BenchClient extends Base {
    constructor() {
        super();
        this.ready(true);
        this.subscribed = new Map();
        this.seq = 0;
    }
    subscribe(reg, listener) {
        this.subscribed.set(reg.dataId, listener);
        if (reg.dataId === "leader") listener({ pid: process.pid });
    }
    async echo(value) {
        return value;
    }
    async flood(count) {
        const listener = this.subscribed.get("flood");
        for (let i = 0; i < count; i++) listener({ seq: ++this.seq, text: TEXT });
        return this.seq;
    }
}

function open(port, isLeader) {
    const generator = cluster(BenchClient, {
        name: "BenchClient",
        port: Number(port),
        isLeader,
        responseTimeout: 60000,
    });
    for (const method of DELEGATES) generator.delegate(method, "invoke");
    return generator.create();
}

// --- measuring -------------------------------------------------------------------------------

const percentile = (sorted, share) =>
    sorted.length === 0 ? 0 : sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];

function report(fields) {
    console.log(
        Object.entries(fields)
            .map(([name, value]) => `${name}=${value}`)
            .join(" "),
    );
    process.exit(0);
}

const kinds = {
    string: {
        make: (n) => String(n).padStart(10, "0") + "x".repeat(90),
        same: (a, b) => a === b,
    },
    object: {
        make: (n) => ({ id: n, name: "service-" + n, active: true, weight: 0.75, address: "10.0.0.1:8080" }),
        same: (a, b) => a.id === b.id && a.name === b.name && a.address === b.address,
    },
    buffer: {
        make(n) {
            const buffer = Buffer.alloc(1024);
            for (let i = 0; i < 1024; i += 4) buffer.writeUInt32BE((n + i * 2654435761) >>> 0, i);
            return buffer;
        },
        same: (a, b) => a.equals(b),
    },
};

const modes = {
    async lead([port]) {
        await open(port, true).ready();
        console.log("ready");
    },

    async call([port, kind, inFlight, seconds]) {
        const { make, same } = kinds[kind];
        const client = open(port, false);
        await client.ready();
        const starts = performance.now() + WARM_UP_MS;
        const ends = starts + Number(seconds) * 1000;
        const latencies = [];
        let number = 0;
        let errors = 0;
        let cpu;
        async function lane() {
            for (let asked = performance.now(); asked < ends;) {
                const value = make(++number);
                const answer = await client.echo(value);
                const answered = performance.now();
                if (!same(answer, value)) errors++;
                else if (answered >= starts && answered < ends) latencies.push((answered - asked) * 1000);
                if (answered >= starts) cpu ??= process.cpuUsage();
                asked = answered;
            }
        }
        await Promise.all(Array.from({ length: Number(inFlight) }, lane));
        const { user, system } = process.cpuUsage(cpu);
        latencies.sort((a, b) => a - b);
        report({
            rate: (latencies.length / seconds).toFixed(0),
            p50_us: percentile(latencies, 0.5).toFixed(1),
            p99_us: percentile(latencies, 0.99).toFixed(1),
            cpu_s: ((user + system) / 1e6).toFixed(3),
            total: number,
            errors,
        });
    },

    async fan([port, followers, seconds]) {
        const wanted = Number(followers);
        const clients = Array.from({ length: wanted }, () => open(port, false));
        await Promise.all(clients.map((client) => client.ready()));
        let starts = Infinity;
        let ends = Infinity;
        let received = 0;
        let batches = 0; // asked for
        let delivered = 0; // within the measured time
        let disorder = 0;
        let began = false;
        const ask = () => {
            batches++;
            clients[0].flood(BATCH);
        };
        const finish = () =>
            report({
                deliveries: (delivered / seconds).toFixed(0),
                total: received,
                lost: batches * BATCH * wanted - received,
                disorder,
            });
        for (const client of clients) {
            let last;
            client.subscribe({ dataId: "flood" }, ({ seq, text }) => {
                if ((last !== undefined && seq !== last + 1) || text !== TEXT) disorder++;
                last = seq;
                if (!began) return;
                received++;
                if (received % (BATCH * wanted) !== 0) return;
                const now = performance.now();
                if (now >= starts && now < ends) delivered += BATCH * wanted;
                if (now < ends) ask();
                else if (received === batches * BATCH * wanted) finish();
            });
        }
        // The subscriptions stand before this call on each connection but not before it on all of them.
        await Promise.all(clients.map((client) => client.echo(0)));
        began = true;
        starts = performance.now() + WARM_UP_MS;
        ends = starts + Number(seconds) * 1000;
        setTimeout(finish, WARM_UP_MS + Number(seconds) * 1000 + 5000); // when a value is missing
        for (let i = 0; i < LANES; i++) ask();
    },

    async member([port]) {
        const client = open(port);
        client.subscribe({ dataId: "leader" }, ({ pid }) => console.log(`leader=${pid} at_us=${nowUs()}`));
    },
};

const [mode, ...given] = process.argv.slice(2);
if (!Object.hasOwn(modes, mode ?? "") || given.length === 0) {
    console.error("usage: cluster_npm.cjs lead|call|fan|member PORT ...; see the head of the file");
    process.exit(2);
}
modes[mode](given);
