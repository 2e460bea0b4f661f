// chat.test.mjs - examples/chat in a browser: two windows on two instances, one of which is killed.
//
// SPDX-License-Identifier: MIT
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";
import { startBrowser } from "./browser.mjs";
import { startNats } from "./nats_server.mjs";
import { freeEndpoint, until, ZNLRUN } from "./scene.mjs";

const HUB = join(dirname(fileURLToPath(import.meta.url)), "../../examples/chat/hub.lua");
const TTL_MS = 2000;
const WAIT_MS = 60000;

/** An instance of the chat; resolves when it serves. */
async function startHub(bus, port) {
    const child = spawn(ZNLRUN, ["--log-level", "error", HUB, bus, String(port), String(TTL_MS)], {
        stdio: ["ignore", "pipe", "inherit"],
    });
    child.ended = new Promise((resolve) => child.on("close", resolve));
    await new Promise((resolve, reject) => {
        child.on("error", reject);
        child.on("close", (code) => reject(new Error(`the hub ended: ${code}`)));
        createInterface({ input: child.stdout }).once("line", resolve);
    });
    return child;
}

const people = (page) =>
    page.run(() => [...document.querySelectorAll("#people button")].map((each) => each.dataset.name));
const messages = (page) =>
    page.run(() => [...document.querySelectorAll("#messages li")].map((each) => each.textContent));
const state = (page) => page.run(() => document.getElementById("state").dataset.state);

const listed = (page, ...names) =>
    until(
        `${names} in the list`,
        async () => JSON.stringify(await people(page)) === JSON.stringify(names),
        WAIT_MS,
    );
const shown = (page, text) =>
    until(`"${text}" on the page`, async () => (await messages(page)).includes(text), WAIT_MS);

async function enter(page, name) {
    await page.type("#name", name);
    await page.click("#enter");
    await until(`${name} in the room`, async () => (await state(page)) === "online", WAIT_MS);
}

async function say(page, text) {
    await page.type("#text", text);
    await page.click("#send");
}

describe("the chat", { timeout: 300000 }, () => {
    let nats;
    let browser;
    const ports = [];
    const hubs = [];

    before(async () => {
        nats = await startNats();
        for (let i = 0; i < 2; i++) {
            ports[i] = Number((await freeEndpoint()).split(":").at(-1));
            hubs[i] = await startHub(nats.url, ports[i]);
        }
        browser = await startBrowser();
    });

    after(async () => {
        await browser?.close();
        for (const hub of hubs) {
            hub.kill("SIGKILL");
            await hub.ended;
        }
        await nats?.remove();
    });

    test("two windows on two instances see each other, and one instance may die", async () => {
        const ada = await browser.open(`http://127.0.0.1:${ports[0]}/`);
        const bob = await browser.open(`http://127.0.0.1:${ports[1]}/`);
        await enter(ada, "Ada");
        await listed(ada, "Ada");
        await enter(bob, "Bob");
        for (const page of [ada, bob]) await listed(page, "Ada", "Bob");

        await say(ada, "Good morning from the first instance");
        await say(bob, "And hello from the second");
        for (const page of [ada, bob]) {
            await shown(page, "AdaGood morning from the first instance");
            await shown(page, "BobAnd hello from the second");
        }
        await bob.click('#people button[data-name="Ada"]');
        await say(bob, "<b>only you</b> read this");
        await shown(ada, "Bob, to you<b>only you</b> read this");
        await shown(bob, "to Ada<b>only you</b> read this");
        await say(ada, "Nice");
        await shown(bob, "AdaNice");
        if (process.env.ZNL_SCREENSHOT) writeFileSync(process.env.ZNL_SCREENSHOT, await ada.screenshot());

        hubs[1].kill("SIGKILL");
        await hubs[1].ended;
        await until("Bob's page to notice", async () => (await state(bob)) !== "online", WAIT_MS);
        await listed(ada, "Ada");
        await say(ada, "Bob?");
        await shown(ada, "AdaBob?");

        hubs[1] = await startHub(nats.url, ports[1]);
        await until("Bob to be back", async () => (await state(bob)) === "online", WAIT_MS);
        for (const page of [ada, bob]) await listed(page, "Ada", "Bob");
        await bob.click("#to");
        await say(bob, "Back again");
        await shown(ada, "BobBack again");
        assert.ok(!(await messages(bob)).includes("AdaBob?"), "what was said meanwhile is lost, and not told late");

        hubs[1].kill("SIGTERM");
        assert.equal(await hubs[1].ended, 0);
        await listed(ada, "Ada");
    });

    test("names that are long, or HTML, are texts that fit", async () => {
        const name = "<b>" + "W".repeat(20) + "\u00e4";
        const page = await browser.open(`http://127.0.0.1:${ports[0]}/`);
        await enter(page, name);
        await until("the name in the list", async () => (await people(page)).includes(name), WAIT_MS);
        const sizes = await page.run(() => {
            const room = document.querySelector("aside").getBoundingClientRect();
            return [...document.querySelectorAll("#people small")].map((port) => [
                port.getBoundingClientRect().right <= room.right,
                port.scrollWidth <= port.clientWidth,
            ]);
        });
        for (const size of sizes) assert.deepEqual(size, [true, true]);
        assert.equal(await page.run(() => document.querySelectorAll("#people b").length), 0);

        const letters = await browser.open(`http://127.0.0.1:${ports[0]}/`);
        await enter(letters, "\u{10348}".repeat(12)); // 24 of the page, 48 bytes
    });
});
