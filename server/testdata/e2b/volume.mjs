// What the class Volume of E2B's SDK does, against the server that the environment names.
// E2B_PACKAGE is where the package lies.
import assert from 'node:assert/strict'
import { pathToFileURL } from 'node:url'

// Its ES module, which older versions of node take, too.
const { AuthenticationError, Volume, VolumeError, VolumeNotFoundError, VolumePathNotFoundError } =
  await import(pathToFileURL(process.env.E2B_PACKAGE + '/dist/index.mjs'))

const bytes = (s) => new TextEncoder().encode(s)
const names = (list) => list.map((e) => e.path)

// fails asserts that p is rejected with exactly that class, and that message.
async function fails(p, type, message) {
  await assert.rejects(p, (err) => {
    assert.equal(err.constructor, type, `${err.constructor.name}: ${err.message}`)
    if (message) assert.match(err.message, message)
    return true
  })
}

async function volumes() {
  assert.deepEqual(await Volume.list(), [])
  const a = await Volume.create('a')
  const b = await Volume.create('b')
  assert.equal(a.name, 'a')
  assert.match(a.volumeId, /^[0-9a-f]{8}-[0-9a-f-]{27}$/)
  assert.ok(a.token)
  const list = await Volume.list()
  assert.deepEqual(list.map((v) => v.name).sort(), ['a', 'b'])
  assert.deepEqual(Object.keys(list[0]).sort(), ['name', 'volumeId'])

  const info = await Volume.getInfo(b.volumeId)
  assert.equal(info.name, 'b')
  assert.equal(info.volumeId, b.volumeId)
  await b.writeFile('/kept', 'by another object')
  const again = await Volume.connect(b.volumeId)
  assert.equal(await again.readFile('/kept'), 'by another object')

  await fails(Volume.create('a'), VolumeError, /^409: /)
  await fails(Volume.create('not a name'), VolumeError, /^400: /)
  await fails(Volume.getInfo('non-existent-id'), VolumeNotFoundError)
  await fails(Volume.getInfo('b'), VolumeNotFoundError) // a name is no id
  assert.equal(await Volume.destroy('non-existent-id'), false)
  assert.equal(await Volume.destroy(b.volumeId), true)
  assert.equal(await Volume.destroy(b.volumeId), false)
  await fails(again.readFile('/kept'), VolumePathNotFoundError)
  return a
}

async function contents(vol) {
  const info = await vol.writeFile('/text', 'Grüße')
  assert.equal(info.name, 'text')
  assert.equal(info.path, '/text')
  assert.equal(info.type, 'file')
  assert.equal(info.size, 7)
  assert.equal(info.mode, 0o644)
  for (const t of [info.atime, info.mtime, info.ctime]) {
    assert.ok(Math.abs(Date.now() - t.getTime()) < 60_000, String(t))
  }
  assert.equal(await vol.readFile('/text'), 'Grüße')
  assert.deepEqual(await vol.readFile('/text', { format: 'bytes' }), bytes('Grüße'))
  assert.equal(await (await vol.readFile('/text', { format: 'blob' })).text(), 'Grüße')
  assert.equal(await new Response(await vol.readFile('/text', { format: 'stream' })).text(), 'Grüße')

  await vol.writeFile('/array', bytes('an array').buffer)
  assert.equal(await vol.readFile('/array'), 'an array')
  await vol.writeFile('/blob', new Blob(['a blob']))
  assert.equal(await vol.readFile('/blob'), 'a blob')

  await vol.writeFile('/empty', '')
  assert.equal(await vol.readFile('/empty'), '')
  assert.deepEqual(await vol.readFile('/empty', { format: 'bytes' }), new Uint8Array())
  assert.equal((await vol.readFile('/empty', { format: 'blob' })).size, 0)
  assert.equal(await new Response(await vol.readFile('/empty', { format: 'stream' })).text(), '')

  await fails(vol.writeFile('/text', 'no'), VolumeError, /^409: /)
  await fails(vol.writeFile('/text', 'no', { force: false }), VolumeError, /^409: /)
  await vol.writeFile('/text', 'yes', { force: true })
  assert.equal(await vol.readFile('/text'), 'yes')
  const meta = await vol.writeFile('/meta', 'x', { uid: 1000, gid: 1001, mode: 0o4750 })
  assert.deepEqual([meta.uid, meta.gid, meta.mode], [1000, 1001, 0o4750])
  await vol.writeFile('/ümläut & ?=#% 50%', 'odd')
  assert.equal(await vol.readFile('/ümläut & ?=#% 50%'), 'odd')
}

// large streams a file up and down that is larger than what is held of it anywhere.
async function large(vol) {
  const size = 64 << 20
  const piece = (n) => new Uint8Array(1 << 20).fill(n)
  const stream = () => {
    let n = 0
    return new ReadableStream({
      pull(c) {
        if (n * (1 << 20) >= size) c.close()
        else c.enqueue(piece(n++))
      },
    })
  }
  const info = await vol.writeFile('/large', stream())
  assert.equal(info.size, size)
  let at = 0
  for await (const chunk of await vol.readFile('/large', { format: 'stream' })) {
    for (let i = 0; i < chunk.length; i += 4096) {
      assert.equal(chunk[i], (at + i) >> 20)
    }
    at += chunk.length
  }
  assert.equal(at, size)
  await fails(vol.writeFile('/large', stream()), VolumeError, /^409: /)
}

async function directories(vol) {
  const dir = await vol.makeDir('/dir')
  assert.equal(dir.type, 'directory')
  assert.equal(dir.mode, 0o755)
  await fails(vol.makeDir('/dir'), VolumeError, /^409: /)
  await fails(vol.makeDir('/no/such'), VolumePathNotFoundError)
  await fails(vol.writeFile('/no/such', ''), VolumePathNotFoundError)
  const deep = await vol.makeDir('/deep/er/est', { force: true, uid: 1000, gid: 1001, mode: 0o750 })
  assert.equal(deep.path, '/deep/er/est')
  for (const e of [deep, await vol.getInfo('/deep/er'), await vol.getInfo('deep')]) {
    assert.deepEqual([e.type, e.uid, e.gid, e.mode], ['directory', 1000, 1001, 0o750])
  }
  const kept = await vol.makeDir('/deep/er', { force: true, uid: 7, mode: 0o700 })
  assert.deepEqual([kept.uid, kept.mode], [1000, 0o750])
  await vol.writeFile('/deep/er/file', 'x')

  assert.deepEqual(names(await vol.list('/deep')), ['/deep/er'])
  assert.deepEqual(names(await vol.list('/deep', { depth: 2 })), ['/deep/er', '/deep/er/est', '/deep/er/file'])
  const all = names(await vol.list('/', { depth: 100 }))
  for (const p of ['/deep', '/deep/er/est', '/deep/er/file', '/dir', '/text']) assert.ok(all.includes(p), p)
  assert.deepEqual(await vol.list('/dir'), [])
  await fails(vol.list('/missing'), VolumePathNotFoundError)
  await fails(vol.list('/text'), VolumeError, /^400: .*not a directory/)
  await fails(vol.readFile('/dir'), VolumeError, /^400: .*is a directory/)
  await fails(vol.writeFile('/dir', '', { force: true }), VolumeError, /^409: /)
  await fails(vol.makeDir('/text/below', { force: true }), VolumeError, /^409: /)
  await fails(vol.list('/', { depth: 0 }), VolumeError, /^400: /)
}

async function metadata(vol) {
  const e = await vol.updateMetadata('/text', { uid: 1, gid: 2, mode: 0o600 })
  assert.deepEqual([e.path, e.type, e.uid, e.gid, e.mode], ['/text', 'file', 1, 2, 0o600])
  const f = await vol.updateMetadata('/text', { gid: 3 })
  assert.deepEqual([f.uid, f.gid, f.mode], [1, 3, 0o600])
  await fails(vol.updateMetadata('/missing', { mode: 0o600 }), VolumePathNotFoundError)
  await fails(vol.updateMetadata('/text', { uid: -1 }), VolumeError, /^400: /)
  assert.equal(await vol.exists('/text'), true)
  assert.equal(await vol.exists('/missing'), false)
  assert.equal(await vol.exists('/text/below'), false)
  await fails(vol.exists('/../text'), VolumeError, /^400: /)
  const root = await vol.getInfo('/')
  assert.deepEqual([root.path, root.type], ['/', 'directory'])
}

async function removal(vol) {
  await vol.remove('/text')
  assert.equal(await vol.exists('/text'), false)
  await fails(vol.remove('/text'), VolumePathNotFoundError)
  await vol.remove('/deep') // with what it holds
  assert.equal(await vol.exists('/deep'), false)
  await fails(vol.remove('/'), VolumeError, /^400: /)
}

async function keys(vol) {
  const bad = { apiKey: 'e2b_' + '0'.repeat(40) }
  await fails(Volume.list(bad), AuthenticationError)
  await fails(Volume.create('c', bad), AuthenticationError)
  await fails(vol.readFile('/array', { token: 'none' }), AuthenticationError)
  const other = await Volume.create('other')
  await fails(vol.readFile('/array', { token: other.token }), AuthenticationError)

  const readOnly = { apiKey: process.env.E2B_READ_KEY }
  await fails(Volume.create('c', readOnly), VolumeError, /^403: /)
  const reader = await Volume.connect(vol.volumeId, readOnly)
  assert.equal(await reader.readFile('/array'), 'an array')
  await fails(reader.writeFile('/new', ''), VolumeError, /^403: /)
  await fails(reader.remove('/array'), VolumeError, /^403: /)
}

const vol = await volumes()
for (const step of [contents, large, directories, metadata, removal, keys]) {
  await step(vol)
  console.log('ok', step.name)
}
for (const v of await Volume.list()) assert.equal(await Volume.destroy(v.volumeId), true)
assert.deepEqual(await Volume.list(), [])
console.log('done')
