// Runs the published client of microsandbox against the server that MSB_API_URL names,
// with the rights that the argument says MSB_API_KEY has: write, read or none.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const packages = createRequire(process.env.MSB_PACKAGES + "/package.json");
const { Volume } = await import(packages.resolve("microsandbox"));

// fails asserts that a call is refused with the client's error of that name.
const fails = (name, call, message = /./) => assert.rejects(call, (err) => {
  assert.equal(err.name, name, err.message);
  assert.match(err.message, message);
  return true;
});
const names = async () => (await Volume.list()).map((v) => v.name);
const paths = async (fs, dir) => (await fs.list(dir)).map((e) => e.path);

async function lifecycle() {
  assert.deepEqual(await names(), [""], "the default volume is there at once");
  const made = await Volume.builder("work").quota(2048).label("team", "ml").label("env", "ci").create();
  assert.equal(made.name, "work");
  await Volume.builder("plain").create();
  assert.deepEqual(await names(), ["plain", "work", ""], "newest first");

  const got = await Volume.get("work");
  assert.equal(got.quotaMib, 2048);
  assert.equal(got.capacityBytes, 2 * 2 ** 30);
  assert.equal(got.usedBytes, 0);
  assert.equal(got.kind, "dir");
  assert.equal(got.isDefault, false);
  assert.deepEqual(Object.fromEntries(got.labels), { team: "ml", env: "ci" });
  assert.ok(Math.abs(Date.now() - got.createdAt) < 60_000, "created now");
  const plain = await Volume.get("plain");
  assert.equal(plain.capacityBytes, null);
  assert.deepEqual(plain.labels, []);

  // The client has one error for a name that is taken, whatever took it.
  await fails("SandboxAlreadyExistsError", () => Volume.builder("work").create(), /POST \/v1\/volumes/);
  await fails("SandboxAlreadyExistsError", () => Volume.builder("msb-default").create());
  await fails("InvalidConfigError", () => Volume.builder("-no").create(), /starts with a letter or digit/);
  await fails("InvalidConfigError", () => Volume.builder("no").label("a key", "x").create(), /label/);
  await fails("VolumeNotFoundError", () => Volume.get("nope"));
  await fails("VolumeNotFoundError", () => Volume.remove("nope"));
  await Volume.remove("plain");
  assert.deepEqual(await names(), ["work", ""]);
}

async function standard() {
  const v = await Volume.getDefault();
  assert.equal(v.name, "");
  assert.equal(v.isDefault, true);
  assert.equal(v.capacityBytes, null);
  assert.deepEqual(v.labels, []);
  await v.fs().write("k", "of the default volume");
  assert.equal(await (await Volume.getDefault()).fs().readToString("/k"), "of the default volume");
  assert.equal((await Volume.getDefault()).usedBytes, 21);
  await fails("UnsupportedError", () => v.remove());
  assert.equal((await Volume.list()).filter((x) => x.isDefault).length, 1);
}

async function files() {
  const fs = (await Volume.get("work")).fs();
  assert.deepEqual(await fs.list("/"), []);
  await fs.write("/a/b/ünï 1.txt", "hello"); // parents are made
  assert.equal(await fs.readToString("a/b/ünï 1.txt"), "hello");
  await fs.write("/a/b/ünï 1.txt", "");
  assert.equal((await fs.read("/a/b/ünï 1.txt")).length, 0);
  await fs.write("/a/b/ünï 1.txt", new Uint8Array([0, 255, 10]));
  assert.deepEqual([...(await fs.read("/a/b/ünï 1.txt"))], [0, 255, 10]);

  const s = await fs.stat("/a/b/ünï 1.txt");
  assert.deepEqual([s.kind, s.size, s.mode, s.readonly], ["file", 3, 0o100644, false]);
  assert.ok(Math.abs(Date.now() - s.modified) < 60_000, "changed now");
  assert.equal((await fs.stat("/")).kind, "directory");
  await fs.mkdir("/d/e/f");
  await fs.mkdir("/d/e/f"); // is there: fine
  assert.deepEqual([(await fs.stat("/d/e")).kind, (await fs.stat("/d/e")).mode], ["directory", 0o040755]);
  assert.deepEqual(await Promise.all(["/a", "/a/b/ünï 1.txt", "/no", "/no/no"].map((p) => fs.exists(p))), [true, true, false, false]);
  assert.deepEqual(await paths(fs, "/"), ["/a", "/d"]);
  assert.deepEqual(await paths(fs, ""), ["/a", "/d"]);
  assert.deepEqual(await paths(fs, "a/b/"), ["/a/b/ünï 1.txt"]);

  await fs.copy("/a", "/copies/a");
  await fs.rename("/copies/a/b", "/moved");
  assert.deepEqual(await paths(fs, "/moved"), ["/moved/ünï 1.txt"]);
  assert.deepEqual(await paths(fs, "/copies/a"), []);
  await fs.copy("/a/b/ünï 1.txt", "/one");
  await fs.rename("/one", "/two");
  assert.equal(await fs.exists("/one"), false);
  await fs.remove("/two");
  await fs.remove("/copies/a"); // it is empty
  await fs.removeDir("/moved");
  await fs.removeDir("/a");
  assert.deepEqual(await paths(fs, "/"), ["/copies", "/d"]);
}

async function streams() {
  const fs = (await Volume.get("work")).fs();
  const want = new Uint8Array(8 << 20).map((_, i) => (i * 31) >> 7);
  const sink = await fs.writeStream("/big");
  for (let at = 0; at < want.length; at += 777_777) await sink.write(want.subarray(at, at + 777_777));
  await sink.close();
  assert.equal((await fs.stat("/big")).size, want.length);
  assert.ok(Buffer.from(await fs.read("/big")).equals(want), "read whole");
  assert.ok(Buffer.from(await (await fs.readStream("/big")).collect()).equals(want), "read as a stream");
  assert.equal((await Volume.get("work")).usedBytes, want.length);
  await fs.remove("/big");

  await Volume.builder("small").quota(1024).create();
  assert.equal((await Volume.get("small")).quotaMib, 1024);
  await Volume.remove("small");
}

async function refusals() {
  const v = await Volume.get("work");
  const fs = v.fs();
  await fs.write("/dir/file", "x");
  const missing = /file does not exist/;
  for (const call of ["read", "readStream", "list", "stat", "remove", "removeDir"]) {
    await fails("SandboxFsOpsError", () => fs[call]("/none"), missing);
  }
  await fails("SandboxFsOpsError", () => fs.copy("/none", "/x"), missing);
  await fails("SandboxFsOpsError", () => fs.rename("/none", "/x"), missing);
  for (const path of ["../x", "/dir/../../x", "/dir/..", "nul\0byte", "x".repeat(300)]) {
    await fails("InvalidConfigError", () => fs.read(path));
    await fails("InvalidConfigError", () => fs.write(path, "x"));
    await fails("InvalidConfigError", () => fs.mkdir(path));
    await fails("InvalidConfigError", () => fs.copy("/dir/file", path));
  }
  await fails("InvalidConfigError", () => fs.removeDir("/"), /root/);
  await fails("CloudHttpError", () => fs.remove("/dir"), /409.*not empty/);
  await fails("CloudHttpError", () => fs.read("/dir"), /409.*is a directory/);
  await fails("CloudHttpError", () => fs.mkdir("/dir/file"), /409.*not a directory/);
  await fails("CloudHttpError", () => fs.list("/dir/file"), /409.*not a directory/);

  await v.remove();
  await fails("VolumeNotFoundError", () => fs.read("/dir/file")); // the handle has the id
  await Volume.builder("work").create();
  await fails("VolumeNotFoundError", () => fs.list("/"));
  await Volume.remove("work");
  assert.deepEqual(await names(), [""]);
}

// What a key may do that only reads.
async function reading() {
  const fs = (await Volume.getDefault()).fs();
  assert.equal(await fs.readToString("/k"), "of the default volume");
  await fails("CloudHttpError", () => fs.write("/k", "other"), /403/);
  await fails("CloudHttpError", () => fs.remove("/k"), /403/);
  await fails("CloudHttpError", () => Volume.builder("no").create(), /403/);
}

// A key that the server does not know.
async function nothing() {
  await fails("CloudHttpError", () => Volume.list(), /401/);
  await fails("CloudHttpError", () => Volume.getDefault(), /401/);
}

const steps = { write: [lifecycle, standard, files, streams, refusals], read: [reading], none: [nothing] };
for (const step of steps[process.argv[2]]) await step();
console.log("done");
