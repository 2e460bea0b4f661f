// fleet.test.mjs - several masters. Slaves of the original library, or of any other kind, notice nothing of the
// fleet their master is in; and a slave of ours goes from one foreign master to the next.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { startNats } from "./nats_server.mjs";
import {
    fails,
    freeEndpoint,
    hex,
    isOnline,
    KEY,
    masterOptions,
    REAL,
    REAL_VERSION,
    scene,
    SKIP_LUA,
    slaveOptions,
    until,
} from "./scene.mjs";

const limit = { timeout: 120000 };
const FOREIGN = [
    { kind: "js", more: { flavour: "0.7.4" } },
    { kind: "js", more: { flavour: "0.6.0" } },
    { kind: "lua", more: {} },
    ...(REAL ? [{ kind: "real", more: {} }] : []),
];
const MODES = {
    plain: {},
    encrypted: { encrypted: true, auth_key: KEY, digest: false },
};
const nameOf = ({ kind, more }) =>
    kind === "real" ? `real ${REAL_VERSION}` : `${kind} ${more.flavour ?? ""}`.trim();

describe("a fleet of masters", { skip: SKIP_LUA }, () => {
    for (const foreign of FOREIGN)
        for (const [mode, both] of Object.entries(MODES))
            test(`with slaves that are ${nameOf(foreign)}, ${mode}`, limit, () =>
                scene(async (s) => {
                    const nats = await startNats();
                    try {
                        const cluster = { bus: nats.url, name: "interop", ttl_ms: 2000 };
                        const endpoints = [await freeEndpoint(), await freeEndpoint()];
                        const [first, second] = [
                            await s.peer(
                                "lua",
                                masterOptions(endpoints[0], { ...both, cluster }),
                            ),
                            await s.peer(
                                "lua",
                                masterOptions(endpoints[1], {
                                    ...both,
                                    id: "master-2",
                                    cluster,
                                }),
                            ),
                        ];
                        const slave = await s.peer(
                            foreign.kind,
                            slaveOptions(endpoints[0], { ...both, ...foreign.more }),
                        );
                        slave.expectTrouble = true; // its handler throws below
                        await isOnline(first, slave);
                        const isKnown = () =>
                            until(
                                "the other master to know the slave",
                                async () =>
                                    (await second.call("master_of", { to: "slave-1" })) ===
                                    "master-1",
                            );
                        await isKnown();

                        // Requests through the other master; those of the slave stay with its own.
                        for (const frames of [[""], [hex("text")], [hex("a"), "", hex("b")]]) {
                            assert.deepEqual(
                                await second.request({ to: "slave-1", frames }),
                                frames,
                            );
                            assert.deepEqual(await slave.request({ frames }), frames);
                        }
                        const many = await second.call("request_many", {
                            to: "slave-1",
                            count: 500,
                            timeout_ms: 15000,
                        });
                        assert.deepEqual(
                            { ok: many.ok, failed: Object.keys(many.failed) },
                            { ok: 500, failed: [] },
                        );
                        await fails(
                            second,
                            second.request({
                                to: "slave-1",
                                frames: [hex("throw")],
                                timeout_ms: 300,
                            }),
                            ["TIMEOUT", "HANDLER_ERROR"],
                        );
                        if (foreign.kind !== "lua")
                            await fails(
                                second,
                                second.call("call", {
                                    to: "slave-1",
                                    route: "/x",
                                    timeout_ms: 4000,
                                }),
                                "UNSUPPORTED",
                            );

                        // What the other master publishes.
                        await slave.call("subscribe", { topic: "news" });
                        await second.call("publish", { topic: "news", frames: [hex("x"), ""] });
                        await slave.event("subscribed");
                        assert.deepEqual(
                            slave.all("subscribed").map((e) => e.frames),
                            [[hex("x"), ""]],
                        );

                        // Without NATS it is a master like any other, and nothing happens to the slave.
                        await nats.kill();
                        assert.deepEqual(
                            await first.request({ to: "slave-1", frames: [hex("alone")] }),
                            [hex("alone")],
                        );
                        await nats.restart();
                        await isKnown();
                        await until("a request through the other master", async () => {
                            const frames = [hex("again")];
                            return second.request({ to: "slave-1", frames }).then(
                                () => true,
                                () => false,
                            );
                        });
                        assert.equal(slave.all("master_offline").length, 0);
                        assert.deepEqual(slave.all("auth_failed"), []);
                    } finally {
                        await nats.remove();
                    }
                }));
});

describe("a slave of several foreign masters", { skip: SKIP_LUA }, () => {
    for (const foreign of FOREIGN)
        for (const [mode, both] of Object.entries(MODES))
            test(`which are ${nameOf(foreign)}, ${mode}`, limit, () =>
                scene(async (s) => {
                    const endpoints = [await freeEndpoint(), await freeEndpoint()];
                    const masters = [];
                    for (const [index, endpoint] of endpoints.entries())
                        masters.push(
                            await s.peer(
                                foreign.kind,
                                masterOptions(endpoint, {
                                    ...both,
                                    ...foreign.more,
                                    id: `master-${index + 1}`,
                                }),
                            ),
                        );
                    const slave = await s.peer("lua", {
                        ...slaveOptions(undefined, both),
                        endpoints,
                        heartbeat_timeout_ms: 1000,
                    });
                    await isOnline(masters[0], slave);
                    assert.equal(await slave.call("endpoint"), endpoints[0]);
                    assert.deepEqual(await slave.request({ frames: [hex("x")] }), [hex("x")]);
                    await masters[0].kill();
                    await isOnline(masters[1], slave);
                    assert.equal(await slave.call("endpoint"), endpoints[1]);
                    assert.deepEqual(await slave.request({ frames: [hex("y")] }), [hex("y")]);
                    assert.deepEqual(
                        await masters[1].request({ to: "slave-1", frames: [hex("z")] }),
                        [hex("z")],
                    );
                    assert.deepEqual(slave.all("auth_failed"), []);
                }));
});
