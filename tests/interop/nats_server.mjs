// nats_server.mjs - a nats-server of a test: a free port and a store of its own, gone with all it
// has when the test ends.
//
//   const server = await startNats({ jetstream: true, config: "max_payload: 4096\n" });
//   server.url; await server.kill(); await server.restart(); await server.remove();
//
// SPDX-License-Identifier: MIT
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { freeEndpoint, until } from "./scene.mjs";

/** Whether a server there greets as NATS does. */
const greets = (host, port) =>
    new Promise((resolve) => {
        const socket = connect(port, host);
        const done = (yes) => {
            socket.destroy();
            resolve(yes);
        };
        socket.setTimeout(1000, () => done(false));
        socket.on("error", () => done(false));
        socket.on("close", () => done(false));
        socket.on("data", (data) => done(String(data).startsWith("INFO ")));
    });

class NatsServer {
    constructor(options) {
        Object.assign(this, options);
        this.url = `nats://${this.host}:${this.port}`;
        this.folder = mkdtempSync(join(tmpdir(), "znl-nats-"));
    }

    async restart() {
        await this.kill();
        const file = join(this.folder, "server.conf");
        const lines = [`listen: "${this.host}:${this.port}"`];
        if (this.jetstream) lines.push(`jetstream { store_dir: "${join(this.folder, "store")}" }`);
        writeFileSync(file, `${lines.join("\n")}\n${this.config}`);
        const child = spawn(process.env.NATS_SERVER ?? "nats-server", ["-c", file], {
            stdio: ["ignore", "ignore", "pipe"],
        });
        let log = "";
        child.stderr.on("data", (data) => {
            log = (log + data).slice(-20000);
        });
        this.process = child;
        this.ended = new Promise((resolve) => {
            child.on("error", (error) => {
                log += error.message;
                resolve(`did not start: ${error.message}`);
            });
            child.on("close", (code, signal) => resolve(`${code ?? signal}`));
        });
        let over = false;
        this.ended.then((how) => {
            over = how;
        });
        await until(
            "nats-server to accept",
            () => {
                if (over) throw new Error(`nats-server ended (${over}):\n${log}`);
                return greets(this.host, this.port);
            },
            20000,
        );
        return this;
    }

    /** Ends it without a word to its clients, or with one: `signal` "SIGTERM". */
    async kill(signal = "SIGKILL") {
        this.process?.kill(signal);
        await this.ended;
        this.process = undefined;
    }

    stop() {
        return this.kill("SIGTERM");
    }

    /** Ends it and deletes its folder. */
    async remove() {
        await this.kill();
        rmSync(this.folder, { recursive: true, force: true });
    }
}

/** A server that accepts. `config`: more lines of its configuration. */
export async function startNats({ host = "127.0.0.1", port, jetstream = false, config = "" } = {}) {
    port ??= Number((await freeEndpoint()).split(":").at(-1));
    const server = new NatsServer({ host, port, jetstream, config });
    try {
        return await server.restart();
    } catch (error) {
        await server.remove();
        throw error;
    }
}
