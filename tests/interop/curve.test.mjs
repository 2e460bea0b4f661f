// curve.test.mjs - CURVE of znlrun with the sockets of npm's zeromq, both ways round. Settings as in interop.test.mjs.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as zmq from "zeromq";
import { concurrency, limit, masterOptions, scene, SKIP_LUA, slaveOptions, until } from "./scene.mjs";
import * as znl from "./znl.mjs";

/** A socket that waits as long as a slow machine takes. */
const raw = (s, type, options) => s.raw(type, { receiveTimeout: 20000, sendTimeout: 20000, ...options });

const client = (server, own) => ({
    curveServerKey: server.publicKey,
    curvePublicKey: own.publicKey,
    curveSecretKey: own.secretKey,
});

/** Asks as a slave does; the answer's frames. */
async function ask(socket, id, text) {
    await socket.send(znl.build({ kind: "register" }));
    await socket.send(znl.build({ kind: "request", requestId: id, payload: [Buffer.from(text)] }));
    for (;;) {
        const message = znl.parse(await socket.receive());
        if (message.kind === "response" && message.requestId.toString() === id) return message;
    }
}

describe("CURVE with npm's zeromq", { concurrency, skip: SKIP_LUA }, () => {
    test("a master of znlrun lets its clients in, and nobody else", limit, () =>
        scene(async (s) => {
            const server = zmq.curveKeyPair();
            const [friend, stranger] = [zmq.curveKeyPair(), zmq.curveKeyPair()];
            const master = await s.peer(
                "lua",
                masterOptions("tcp://127.0.0.1:*", {
                    curve: { secret_key: server.secretKey, allow: [friend.publicKey] },
                }),
            );
            const endpoint = await master.call("endpoint");
            const refused = raw(s, "Dealer", { routingId: "stranger", ...client(server, stranger) });
            const ended = new Promise((resolve) => {
                refused.events.on("handshake:error:auth", resolve);
                refused.events.on("handshake:error:protocol", resolve);
                refused.events.on("handshake:error:other", resolve);
            });
            refused.connect(endpoint);
            await ended;
            const socket = raw(s, "Dealer", { routingId: "friend", ...client(server, friend) });
            socket.connect(endpoint);
            const answer = await ask(socket, "1", "hello");
            assert.ok(answer.payload.length > 0);
            assert.deepEqual(await master.slaves(), ["friend"]);
            await until("a count", async () => (await master.call("counters")).turned_away >= 1);
        }),
    );

    test("a slave of znlrun finds a ROUTER with CURVE", limit, () =>
        scene(async (s) => {
            const server = zmq.curveKeyPair();
            const router = raw(s, "Router", {
                curveServer: true,
                curvePublicKey: server.publicKey,
                curveSecretKey: server.secretKey,
            });
            await router.bind("tcp://127.0.0.1:*");
            await s.peer("lua", slaveOptions(router.lastEndpoint, { curve: { server_key: server.publicKey } }));
            const [id, ...frames] = await router.receive();
            assert.equal(id.toString(), "slave-1");
            assert.equal(znl.parse(frames).kind, "register");
        }),
    );
});
