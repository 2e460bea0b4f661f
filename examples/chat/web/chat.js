// chat.js - the page of the chat: one WebSocket, opened again when it is lost.
// SPDX-License-Identifier: MIT
"use strict";

const $ = (id) => document.getElementById(id);
const RETRY_MS = [200, 500, 1000, 2000, 5000];
const MESSAGES_MAX = 500;

let name = "";
let me = null; // what `welcome` said
let socket = null;
let attempt = 0;
let to = null; // to whom the next message goes; null: everybody

// --- what is shown --------------------------------------------------------------------------------

/** A colour for a name: the same on all pages. */
function hue(text) {
  let sum = 0;
  for (const letter of text) sum = (sum * 31 + letter.codePointAt(0)) % 360;
  return sum;
}

function showState(state, text) {
  $("state").dataset.state = state;
  $("state").textContent = text ?? state;
}

function add(kind, text, from, label) {
  const item = document.createElement("li");
  item.className = kind;
  if (from) {
    const who = document.createElement("b");
    who.textContent = label ?? from;
    item.style.setProperty("--hue", hue(from));
    item.append(who);
  }
  item.append(text);
  const list = $("messages");
  const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
  list.append(item);
  while (list.children.length > MESSAGES_MAX) list.firstChild.remove();
  if (isAtEnd) list.scrollTop = list.scrollHeight;
}

function choose(who) {
  to = who;
  $("to").hidden = !who;
  $("to").textContent = who ? `to ${who} ✕` : "";
  $("text").placeholder = who ? `Message to ${who} alone` : "Message to everybody";
  $("text").focus();
}

function showPeople(members) {
  members.sort((a, b) => a.name.localeCompare(b.name) || a.id.localeCompare(b.id));
  $("count").textContent = members.length;
  $("people").replaceChildren(
    ...members.map((member) => {
      const item = document.createElement("li");
      const button = document.createElement("button");
      const face = document.createElement("i");
      const label = document.createElement("span");
      const at = document.createElement("small");
      button.type = "button";
      button.style.setProperty("--hue", hue(member.name));
      button.dataset.name = member.name;
      face.textContent = [...member.name][0].toUpperCase();
      label.textContent = member.id === me?.id ? `${member.name} (you)` : member.name;
      at.textContent = member.at ? `:${member.at}` : "";
      button.append(face, label, at);
      button.onclick = () => choose(member.name === name ? null : member.name);
      item.append(button);
      return item;
    }),
  );
}

// --- the connection -------------------------------------------------------------------------------

const HEARD = {
  welcome(payload) {
    me = payload;
    attempt = 0;
    $("door").hidden = true;
    $("room").hidden = false;
    $("place").textContent = `${payload.name} at port ${payload.at}`;
    showState("online");
    $("text").focus();
  },
  roster: showPeople,
  said({ from, text }) {
    add(from === name ? "mine" : "theirs", text, from);
  },
  whisper({ from, to: whom, text }) {
    add(from === name ? "whisper mine" : "whisper", text, from, from === name ? `to ${whom}` : `${from}, to you`);
  },
  bus(state) {
    showState(state === "online" ? "online" : "alone", state === "online" ? "online" : "this server is alone");
  },
  refused(reason) {
    add("note", reason);
  },
};

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/ws/chat?name=${encodeURIComponent(name)}`);
  showState("connecting");
  socket.onmessage = (event) => {
    const { type, payload } = JSON.parse(event.data);
    HEARD[type]?.(payload);
  };
  socket.onclose = () => {
    if (!me) {
      $("problem").textContent = "No connection. The server is away, or wants another name.";
      $("enter").disabled = false;
      return;
    }
    showState("offline", "no connection");
    const wait = RETRY_MS[Math.min(attempt++, RETRY_MS.length - 1)];
    setTimeout(connect, wait * (0.75 + Math.random() / 2));
  };
}

$("door").onsubmit = (event) => {
  event.preventDefault();
  name = $("name").value.trim();
  if (!name) return;
  $("problem").textContent = "";
  $("enter").disabled = true;
  connect();
};

$("say").onsubmit = (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || socket.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify({ type: "say", payload: to ? { text, to } : { text } }));
  $("text").value = "";
};

$("to").onclick = () => choose(null);
