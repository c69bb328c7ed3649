// The page of `bodyparts serve`. One frame is under way at a time: the next one is taken when the
// answer to the last has come, so that what is shown is never older than one answer.

const LONGEST_SIDE = 1280; // of a picture that is sent; models look at less
const JPEG_QUALITY = 0.85;
const PART_OPACITY = 0.5;
const BUSY_WAIT = 500; // ms after which a frame is sent again to a server that had no room
const RETRY_WAITS = [500, 1000, 2000, 4000]; // ms between attempts to reach a server that is gone
const FPS_WINDOW = 2000; // ms
// As drawing.py has them.
const SIDE_COLORS = { right: "rgb(255 130 0)", left: "rgb(0 220 255)", middle: "white" };
const DARK = "rgb(30 30 30)";

const element = (id) => document.getElementById(id);
const view = element("view");
const toggles = ["parts", "skeleton", "boxes"].map(element);

let schema = null; // what /schema answers
let socket = null; // null while there is no connection
let attempts = 0;
let source = null; // what is looked at: { video } or { picture }
let underWay = null; // the frame that the server has: { source, frame, sentAt }
let shown = null; // the last answer: { frame, people }, masks decoded
let answerTimes = [];
let solution = null; // what puts an end to the problem shown: "connection", "answer" or "look"

// ---- The server ----

function address(path) {
  return new URL(path + location.search, location.href); // the search part may hold the token
}

async function connect() {
  let problem = null;
  try {
    const answer = await fetch(address("schema"));
    if (answer.ok) {
      schema = await answer.json();
      showLegend();
      return openSocket();
    }
    if (answer.status >= 500) return tryAgain(); // it, or a proxy before it, is starting
    problem =
      answer.status === 401
        ? "The server wants a token: open the address that it printed when it started."
        : `The server refuses: ${(await answer.text()).slice(0, 200)}`;
  } catch {
    return tryAgain();
  }
  showConnection("lost", "refused");
  showProblem(problem, "connection");
}

function openSocket() {
  const url = address("stream");
  url.protocol = url.protocol.replace("http", "ws");
  const opened = new WebSocket(url);
  opened.onopen = () => {
    socket = opened;
    attempts = 0;
    showConnection("connected", "connected");
    solved("connection");
    sendFrame();
  };
  opened.onmessage = (event) => receive(JSON.parse(event.data));
  opened.onclose = (event) => {
    socket = underWay = null;
    if (event.code === 1009) {
      look(null); // it would be refused again
      showProblem("The server refused this picture: it has too many bytes.");
    }
    tryAgain(event.code === 1013 ? "the server has no room, waiting" : undefined);
  };
}

function tryAgain(words = "server gone, trying again") {
  showConnection("lost", words);
  answerTimes = [];
  setTimeout(connect, RETRY_WAITS[Math.min(attempts++, RETRY_WAITS.length - 1)]);
}

async function sendFrame() {
  if (!socket || underWay || !source || source.answered) return;
  const frame = shrunkCopy(source.video ?? source.picture);
  const sending = (underWay = { source, frame, sentAt: performance.now() });
  const jpeg = await new Promise((done) => frame.toBlob(done, "image/jpeg", JPEG_QUALITY));
  if (underWay === sending) socket.send(jpeg); // the connection may be lost by now
}

async function receive(answer) {
  const asked = underWay;
  if (answer.status === 503) await new Promise((done) => setTimeout(done, BUSY_WAIT));
  const people = answer.error ? [] : await Promise.all(answer.people.map(withMask));
  if (underWay !== asked) return; // the connection was lost meanwhile
  underWay = null;
  if (asked.source === source && answer.status !== 503) {
    if (source.picture) source.answered = true;
    if (answer.error) showProblem(`The server refused this picture: ${answer.error}.`, "answer");
    else solved("answer");
    // As draw_people does: smaller people in front of larger ones.
    people.sort((a, b) => area(b.box) - area(a.box));
    shown = { frame: asked.frame, people };
    showFigures(performance.now() - asked.sentAt);
    draw();
  }
  sendFrame();
}

async function withMask(person) {
  if (!person.mask) return person;
  const bytes = Uint8Array.from(atob(person.mask), (c) => c.charCodeAt(0));
  return { ...person, mask: await createImageBitmap(new Blob([bytes], { type: "image/png" })) };
}

// ---- What is looked at ----

function look(at) {
  source?.video?.srcObject.getTracks().forEach((track) => track.stop());
  source = at;
  answerTimes = [];
  element("camera").textContent = at?.video ? "Stop camera" : "Start camera";
  solved("look");
  sendFrame();
}

async function startCamera() {
  if (!navigator.mediaDevices) {
    showProblem(
      "Browsers give the camera only to https:// and localhost addresses. Pictures work here.",
    );
    return;
  }
  const wanted = { video: { width: { ideal: 640 }, facingMode: "environment" } };
  const video = document.createElement("video");
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia(wanted);
  } catch (error) {
    showProblem(cameraProblem(error));
    return;
  }
  video.muted = video.playsInline = true;
  video.srcObject.getVideoTracks()[0].onended = () => {
    look(null);
    showProblem("The camera has stopped.");
  };
  await video.play();
  look({ video });
}

function cameraProblem(error) {
  const words = {
    NotAllowedError: "The browser was not allowed to use the camera: see the address bar.",
    NotFoundError: "There is no camera.",
    NotReadableError: "The camera is in use elsewhere.",
  };
  return words[error.name] ?? `The camera did not start: ${error.message}`;
}

async function openPicture(file) {
  let picture;
  try {
    picture = await createImageBitmap(file);
  } catch {
    showProblem(`${file.name}: this is no picture that the browser can read.`);
    return;
  }
  look({ picture });
}

function shrunkCopy(image) {
  const width = image.videoWidth ?? image.width;
  const height = image.videoHeight ?? image.height;
  const scale = Math.min(
    1,
    LONGEST_SIDE / Math.max(width, height),
    Math.sqrt(schema.max_pixels / (width * height)),
  );
  const copy = document.createElement("canvas");
  copy.width = Math.max(1, Math.floor(width * scale));
  copy.height = Math.max(1, Math.floor(height * scale));
  copy.getContext("2d").drawImage(image, 0, 0, copy.width, copy.height);
  return copy;
}

// ---- Drawing ----

function draw() {
  if (!shown) return;
  const { frame, people } = shown;
  const [parts, skeleton, boxes] = toggles.map((toggle) => toggle.checked);
  view.width = frame.width;
  view.height = frame.height;
  view.hidden = false;
  element("hint").hidden = true;
  element("stage").classList.add("filled");
  const context = view.getContext("2d");
  context.drawImage(frame, 0, 0);
  if (parts) drawParts(context, people);
  for (const person of people) {
    const width = Math.min(6, Math.max(1, Math.sqrt(area(person.box)) / 80));
    if (boxes) drawBox(context, person);
    if (skeleton && person.joints) drawSkeleton(context, person.joints, width);
  }
}

function drawParts(context, people) {
  // All masks first, then blended in once, so that who is in front hides who is behind.
  const masks = document.createElement("canvas");
  masks.width = view.width;
  masks.height = view.height;
  const painting = masks.getContext("2d");
  painting.shadowColor = "white"; // outlines the silhouettes
  painting.shadowBlur = 2;
  for (const { mask, origin } of people) if (mask) painting.drawImage(mask, ...origin);
  context.globalAlpha = PART_OPACITY;
  context.drawImage(masks, 0, 0);
  context.globalAlpha = 1;
}

function drawSkeleton(context, joints, width) {
  const seen = (k) => joints[k][2] >= schema.joint_threshold;
  const bones = schema.bones.filter(([a, b]) => seen(a) && seen(b));
  context.lineCap = "round";
  // All dark rims first, so that no rim cuts a neighbouring bone.
  for (const rim of [true, false]) {
    context.lineWidth = rim ? width + 2 : width;
    for (const [a, b] of bones) {
      context.strokeStyle = rim ? DARK : sideColor(schema.joints[a], schema.joints[b]);
      context.beginPath();
      context.moveTo(joints[a][0], joints[a][1]);
      context.lineTo(joints[b][0], joints[b][1]);
      context.stroke();
    }
  }
  context.lineWidth = 1;
  context.strokeStyle = DARK;
  joints.forEach(([x, y], k) => {
    if (!seen(k)) return;
    context.fillStyle = sideColor(schema.joints[k]);
    context.beginPath();
    context.arc(x, y, width + 1, 0, 2 * Math.PI);
    context.fill();
    context.stroke();
  });
}

function drawBox(context, { box: [x0, y0, x1, y1], score }) {
  context.lineWidth = 1;
  context.strokeStyle = "white";
  context.strokeRect(x0, y0, x1 - x0, y1 - y0);
  const size = Math.max(8, view.width / 45);
  context.font = `${size}px sans-serif`;
  const words = score.toFixed(2);
  const top = Math.max(0, y0 - size * 1.2);
  context.fillStyle = DARK;
  context.fillRect(x0, top, context.measureText(words).width + 6, size * 1.2);
  context.fillStyle = "white";
  context.fillText(words, x0 + 3, top + size);
}

function sideColor(...joints) {
  const sides = ["right", "left"].filter((side) => joints.some((j) => j.startsWith(`${side}_`)));
  return SIDE_COLORS[sides.length === 1 ? sides[0] : "middle"];
}

function area([x0, y0, x1, y1]) {
  return (x1 - x0) * (y1 - y0);
}

// ---- Words ----

function showConnection(state, words) {
  element("connection").className = state;
  element("connection").textContent = words;
}

// Until `by` happens, or something else is looked at.
function showProblem(words, by = "look") {
  solution = by;
  element("problem").textContent = words;
  element("problem").hidden = false;
}

function solved(by) {
  if (by === solution || by === "look") element("problem").hidden = true;
}

function showFigures(delay) {
  const now = performance.now();
  answerTimes = [...answerTimes.filter((time) => now - time < FPS_WINDOW), now];
  const seconds = (now - answerTimes[0]) / 1000;
  element("fps").textContent = seconds ? ((answerTimes.length - 1) / seconds).toFixed(1) : "–";
  element("delay").textContent = `${Math.round(delay)} ms`;
  element("people").textContent = shown.people.length;
}

function showLegend() {
  const entries = schema.channels.map((channel, i) => {
    const swatch = document.createElement("span");
    swatch.style.background = `rgb(${schema.colors[i].join(" ")})`;
    const entry = document.createElement("li");
    entry.append(swatch, channel.replaceAll("_", " "));
    return entry;
  });
  element("legend").replaceChildren(...entries);
}

// ---- Events ----

element("camera").onclick = () => (source?.video ? look(null) : startCamera());
element("file").onchange = ({ target }) => {
  if (target.files.length) openPicture(target.files[0]);
  target.value = ""; // the same file may be opened again
};
for (const toggle of toggles) toggle.onchange = draw;
for (const type of ["dragenter", "dragover", "dragleave", "drop"]) {
  addEventListener(type, (event) => {
    event.preventDefault(); // or the browser leaves the page for the picture
    element("stage").classList.toggle("over", type === "dragenter" || type === "dragover");
    if (type === "drop" && event.dataTransfer.files.length) openPicture(event.dataTransfer.files[0]);
  });
}

connect();
