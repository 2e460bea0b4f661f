// ws_echo.mjs - the yardstick of the micro benchmarks: the least that two Node processes must do
// to exchange the same JSON over `ws`, without a protocol, routes, timeouts or heartbeats around it.
//
//   ws_echo.mjs serve PORT                                  prints port=N when it listens
//   ws_echo.mjs call PORT BYTES IN_FLIGHT SECONDS           echo calls on one connection
//   ws_echo.mjs find PORT CONNECTIONS IN_FLIGHT SECONDS     lookups, IN_FLIGHT on each connection
//   ws_echo.mjs stream PORT BYTES SECONDS                   chunks one way, read as they come
//
// Prints one line of key=value, as client.lua does. Uses the `ws` of tests/interop (npm ci there).
//
// SPDX-License-Identifier: MIT
import { once } from "node:events";
import { createRequire } from "node:module";
const require = createRequire(new URL("../interop/package.json", import.meta.url));
const { WebSocket, WebSocketServer } = require("ws");

const WARM_UP_MS = 300;
const STREAM_WINDOW_BYTES = 1 << 20; // what may wait in the socket before the sender pauses
const ADDRESSES = 100;

const send = (socket, frame) => socket.send(JSON.stringify(frame));

// --- server --------------------------------------------------------------------------------

const directory = new Map([
    ["svc", Array.from({ length: ADDRESSES }, (_, i) => `127.0.0.1:${20000 + i}`)],
]);

function find({ namespace, exclude }) {
    let keys = directory.get(namespace) ?? [];
    if (exclude?.length) keys = keys.filter((key) => !exclude.includes(key));
    if (keys.length === 0) return undefined;
    const key = keys[Math.floor(Math.random() * keys.length)];
    const colon = key.lastIndexOf(":");
    return { host: key.slice(0, colon), port: Number(key.slice(colon + 1)) };
}

/** Sends chunks until the socket closes, never more ahead than the window. */
async function stream(socket, id, { bytes }) {
    const payload = { text: "x".repeat(bytes) };
    for (let seq = 0; socket.readyState === WebSocket.OPEN; seq++) {
        const data = { status: 200, seq, payload, final: false };
        send(socket, { id, mode: 1, stream: true, data, twoway: false });
        if (seq % 64 === 63) {
            await new Promise(setImmediate);
            while (socket.bufferedAmount > STREAM_WINDOW_BYTES)
                await new Promise((resolve) => setTimeout(resolve, 1));
        }
    }
}

function answer(socket, text) {
    const { id, data } = JSON.parse(text);
    if (data.url === "/stream") {
        stream(socket, id, data.data);
        return;
    }
    const value = data.url === "/-/find" ? find(data.data) : data.data;
    send(socket, { id, mode: 1, twoway: false, data: { status: 200, data: value } });
}

async function serve(port) {
    const server = new WebSocketServer({
        host: "127.0.0.1",
        port,
        perMessageDeflate: false,
    });
    server.on("connection", (socket) => {
        socket.on("error", () => {});
        socket.on("message", (text) => answer(socket, text));
    });
    await once(server, "listening");
    console.log(`port=${server.address().port}`);
}

// --- client --------------------------------------------------------------------------------

async function connect(port) {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/`, { perMessageDeflate: false });
    await once(socket, "open");
    return socket;
}

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

/** Keeps `inFlight` requests open on each socket until the end; reports rate and latency. */
function ask(sockets, inFlight, seconds, url, make) {
    const starts = performance.now() + WARM_UP_MS;
    const ends = starts + seconds * 1000;
    const latencies = [];
    let cpu;
    let open = 0;
    for (const socket of sockets) {
        const asked = new Map();
        let next = 0;
        const request = () => {
            const id = next++;
            asked.set(id, performance.now());
            open++;
            send(socket, { id, twoway: true, data: { url, data: make(id) }, mode: 0 });
        };
        socket.on("message", (text) => {
            const frame = JSON.parse(text);
            const now = performance.now();
            if (frame.data.status !== 200) throw new Error(`status ${frame.data.status}`);
            if (now >= starts && cpu === undefined) cpu = process.cpuUsage();
            const began = asked.get(frame.id);
            asked.delete(frame.id);
            open--;
            if (now >= starts && now < ends) latencies.push((now - began) * 1000);
            if (now < ends) request();
            else if (open === 0) finish();
        });
        for (let i = 0; i < inFlight; i++) request();
    }
    function finish() {
        const { user, system } = process.cpuUsage(cpu);
        latencies.sort((a, b) => a - b);
        report({
            requests: latencies.length,
            seconds: seconds.toFixed(3),
            rate: (latencies.length / seconds).toFixed(0),
            p50_us: percentile(latencies, 0.5).toFixed(2),
            p99_us: percentile(latencies, 0.99).toFixed(2),
            cpu_s: ((user + system) / 1e6).toFixed(3),
        });
    }
}

const modes = {
    serve: ([port]) => serve(Number(port)),
    async call([port, bytes, inFlight, seconds]) {
        // The object is about `bytes` long as JSON; a number makes each one different.
        const text = "x".repeat(Math.max(Number(bytes) - 24, 1));
        const make = (n) => ({ n, text });
        ask([await connect(port)], Number(inFlight), Number(seconds), "/echo", make);
    },
    async find([port, connections, inFlight, seconds]) {
        const sockets = [];
        for (let i = 0; i < Number(connections); i++) sockets.push(await connect(port));
        const make = () => ({ namespace: "svc", exclude: [] });
        ask(sockets, Number(inFlight), Number(seconds), "/-/find", make);
    },
    async stream([port, bytes, seconds]) {
        const socket = await connect(port);
        const starts = performance.now() + WARM_UP_MS;
        const ends = starts + Number(seconds) * 1000;
        let count = 0;
        let cpu;
        socket.on("message", (text) => {
            const frame = JSON.parse(text);
            const now = performance.now();
            if (now < starts || frame.data.status !== 200) return;
            cpu ??= process.cpuUsage();
            count++;
            if (now < ends) return;
            const { user, system } = process.cpuUsage(cpu);
            report({
                chunks: count,
                seconds: Number(seconds).toFixed(3),
                rate: (count / Number(seconds)).toFixed(0),
                cpu_s: ((user + system) / 1e6).toFixed(3),
            });
        });
        const data = { bytes: Math.max(Number(bytes) - 11, 1) };
        send(socket, { id: 0, twoway: true, data: { url: "/stream", data }, mode: 0, stream: true });
    },
};

const [mode, ...given] = process.argv.slice(2);
if (!Object.hasOwn(modes, mode ?? "") || given.length === 0) {
    console.error("usage: ws_echo.mjs serve|call|find|stream PORT ...; see the head of the file");
    process.exit(2);
}
await modes[mode](given);
