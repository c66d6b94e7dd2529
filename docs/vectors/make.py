#!/usr/bin/env python3
"""Makes vectors.json, the test vectors of docs/protocol.md, from the document alone.

It shares no code with the implementation: all it needs is Python 3.8 and its standard library. The primitives below are
written for reading, not for speed, and in variable time: nothing here may ever touch a real secret. Each is checked
against a published vector before anything is written.

    python3 make.py            writes vectors.json beside this file
    python3 make.py --check    says whether the file is up to date (exit 1 if not)
"""

import hashlib
import hmac
import json
import os
import struct
import sys

# ---------------------------------------------------------------- BLAKE3 (specification, section 2)

B3_IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
B3_PERMUTATION = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
CHUNK_START, CHUNK_END, PARENT, ROOT, DERIVE_CONTEXT, DERIVE_MATERIAL = 1, 2, 4, 8, 32, 64
MASK32 = 0xFFFFFFFF


def rotate_right(x, n):
    return (x >> n | x << (32 - n)) & MASK32


def b3_compress(chaining, block, counter, length, flags):
    s = list(chaining) + list(B3_IV[:4]) + [counter & MASK32, counter >> 32, length, flags]
    m = list(struct.unpack("<16I", block.ljust(64, b"\0")))

    def g(a, b, c, d, x, y):
        s[a] = (s[a] + s[b] + x) & MASK32
        s[d] = rotate_right(s[d] ^ s[a], 16)
        s[c] = (s[c] + s[d]) & MASK32
        s[b] = rotate_right(s[b] ^ s[c], 12)
        s[a] = (s[a] + s[b] + y) & MASK32
        s[d] = rotate_right(s[d] ^ s[a], 8)
        s[c] = (s[c] + s[d]) & MASK32
        s[b] = rotate_right(s[b] ^ s[c], 7)

    for _ in range(7):
        for column in range(4):
            g(column, column + 4, column + 8, column + 12, m[2 * column], m[2 * column + 1])
        for row in range(4):
            g(row, 4 + (row + 1) % 4, 8 + (row + 2) % 4, 12 + (row + 3) % 4, m[8 + 2 * row], m[9 + 2 * row])
        m = [m[at] for at in B3_PERMUTATION]
    return [s[i] ^ s[i + 8] for i in range(8)]


def b3_node(data, key, counter, flags, root):
    """The chaining value of the tree over `data`, whose first chunk has this number."""
    if len(data) <= 1024:
        blocks = [data[at : at + 64] for at in range(0, len(data), 64)] or [b""]
        chaining = key
        for number, block in enumerate(blocks):
            last = number == len(blocks) - 1
            extra = (CHUNK_START if number == 0 else 0) | (CHUNK_END if last else 0) | (ROOT if last and root else 0)
            chaining = b3_compress(chaining, block, counter, len(block), flags | extra)
        return chaining
    left = 1024
    while left * 2 < len(data):
        left *= 2
    halves = b3_node(data[:left], key, counter, flags, False) + b3_node(
        data[left:], key, counter + left // 1024, flags, False
    )
    return b3_compress(key, struct.pack("<16I", *halves), 0, 64, flags | PARENT | (ROOT if root else 0))


def blake3(data):
    return struct.pack("<8I", *b3_node(data, B3_IV, 0, 0, True))


def blake3_derive_key(context, material):
    key = b3_node(context.encode(), B3_IV, 0, DERIVE_CONTEXT, True)
    return struct.pack("<8I", *b3_node(material, key, 0, DERIVE_MATERIAL, True))


# ---------------------------------------------------------------- Curve25519: X25519 (RFC
# 7748), ristretto255 (RFC 9496)

P = 2**255 - 19
ORDER = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)


def x25519(scalar, u):
    k = int.from_bytes(scalar, "little") & ~7 & (2**254 - 1) | 2**254
    x1 = int.from_bytes(u, "little") & (2**255 - 1)
    x2, z2, x3, z3 = 1, 0, x1, 1
    for bit in range(254, -1, -1):
        if k >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
        a, b, c, d = x2 + z2, x2 - z2, x3 + z3, x3 - z3
        da, cb, aa, bb = d * a % P, c * b % P, a * a % P, b * b % P
        x3, z3 = (da + cb) ** 2 % P, x1 * (da - cb) ** 2 % P
        e = aa - bb
        x2, z2 = aa * bb % P, e * (aa + 121665 * e) % P
        if k >> bit & 1:
            x2, z2, x3, z3 = x3, z3, x2, z2
    return (x2 * pow(z2, -1, P) % P).to_bytes(32, "little")


def edwards_add(p, q):
    """Complete addition on -x^2 + y^2 = 1 + d x^2 y^2, in affine coordinates."""
    (x1, y1), (x2, y2) = p, q
    t = D * x1 * x2 * y1 * y2 % P
    return (x1 * y2 + x2 * y1) * pow(1 + t, -1, P) % P, (y1 * y2 + x1 * x2) * pow(1 - t, -1, P) % P


def edwards_mul(k, p):
    total = (0, 1)
    for bit in bin(k)[2:]:
        total = edwards_add(total, total)
        if bit == "1":
            total = edwards_add(total, p)
    return total


def negative(x):
    return x % P & 1


def absolute(x):
    return -x % P if negative(x) else x % P


def sqrt_ratio(u, v):
    """RFC 9496, 4.2: whether u/v is a square, and a root of it or of SQRT_M1 times it."""
    r = u * v**3 * pow(u * v**7, (P - 5) // 8, P) % P
    check = v * r * r % P
    correct, flipped = check == u % P, check == -u % P
    flipped_i = check == -u * SQRT_M1 % P
    if flipped or flipped_i:
        r = r * SQRT_M1 % P
    return correct or flipped, absolute(r)


INV_SQRT_A_MINUS_D = sqrt_ratio(1, -1 - D)[1]
# RFC 9496 fixes the sign of this root.
SQRT_AD_MINUS_ONE = 25063068953384623474111414158702152701244531502492656460079210482610430750235


def ristretto_encode(p):
    x0, y0 = p
    z0, t0 = 1, x0 * y0 % P
    u1, u2 = (z0 + y0) * (z0 - y0) % P, x0 * y0 % P
    inverse = sqrt_ratio(1, u1 * u2 * u2)[1]
    den1, den2 = inverse * u1 % P, inverse * u2 % P
    z_inverse = den1 * den2 * t0 % P
    x, y, den = x0, y0, den2
    if negative(t0 * z_inverse):
        x, y, den = y0 * SQRT_M1 % P, x0 * SQRT_M1 % P, den1 * INV_SQRT_A_MINUS_D % P
    if negative(x * z_inverse):
        y = -y % P
    return absolute(den * (z0 - y)).to_bytes(32, "little")


def ristretto_decode(data):
    s = int.from_bytes(data, "little")
    assert s < P and not negative(s)
    u1, u2 = (1 - s * s) % P, (1 + s * s) % P
    v = (-D * u1 * u1 - u2 * u2) % P
    square, inverse = sqrt_ratio(1, v * u2 * u2)
    den_x, den_y = inverse * u2 % P, inverse * inverse * u2 * v % P
    x, y = absolute(2 * s * den_x), u1 * den_y % P
    assert square and not negative(x * y) and y
    return x, y


def ristretto_map(data):
    r = int.from_bytes(data, "little") % 2**255
    t = SQRT_M1 * r * r % P
    u = (t + 1) * (1 - D * D) % P
    v = (-1 - D * t) * (t + D) % P
    square, s = sqrt_ratio(u, v)
    c = -1
    if not square:
        s, c = -absolute(s * r) % P, t
    n = (c * (t - 1) * (D - 1) ** 2 - v) % P
    w0, w1, w2, w3 = 2 * s * v % P, n * SQRT_AD_MINUS_ONE % P, (1 - s * s) % P, (1 + s * s) % P
    return w0 * pow(w1, -1, P) % P, w2 * pow(w3, -1, P) % P


def ristretto_from_uniform(data):
    return edwards_add(ristretto_map(data[:32]), ristretto_map(data[32:]))


# ---------------------------------------------------------------- CPace (draft-irtf-cfrg-cpace), CPACE-RISTR255-SHA512


def leb128(n):
    out = b""
    while n > 127:
        out, n = out + bytes([n & 127 | 128]), n >> 7
    return out + bytes([n])


def lv(*parts):
    return b"".join(leb128(len(part)) + part for part in parts)


def cpace_generator(prs, ci, sid):
    head = lv(b"CPaceRistretto255", prs)
    data = head + lv(bytes(max(0, 127 - len(head))), ci, sid)
    return ristretto_from_uniform(hashlib.sha512(data).digest())


def cpace_isk(sid, scalar, theirs, ya, ada, yb, adb):
    k = ristretto_encode(edwards_mul(scalar, ristretto_decode(theirs)))
    return hashlib.sha512(lv(b"CPaceRistretto255_ISK", sid, k, ya, ada, yb, adb)).digest()


# ---------------------------------------------------------------- AEADs: ChaCha20-Poly1305 (RFC
# 8439), AES-256-GCM (SP 800-38D)


def chacha20_block(key, counter, nonce):
    start = list(struct.unpack("<4I", b"expand 32-byte k") + struct.unpack("<8I", key) + (counter,))
    start += struct.unpack("<3I", nonce)
    s = start[:]

    def quarter(a, b, c, d):
        for x, y, z, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            s[x] = (s[x] + s[y]) & MASK32
            s[z] = rotate_right(s[z] ^ s[x], 32 - turn)

    for _ in range(10):
        for column in range(4):
            quarter(column, column + 4, column + 8, column + 12)
        for row in range(4):
            quarter(row, 4 + (row + 1) % 4, 8 + (row + 2) % 4, 12 + (row + 3) % 4)
    return struct.pack("<16I", *((a + b) & MASK32 for a, b in zip(s, start)))


def xor_stream(data, block_of, first):
    stream = b"".join(block_of(first + at) for at in range((len(data) + 63) // 16 + 1))
    return bytes(a ^ b for a, b in zip(data, stream))


def pad16(data):
    return data + bytes(-len(data) % 16)


def chacha20_poly1305(key, nonce, aad, plain):
    sealed = xor_stream(plain, lambda at: chacha20_block(key, at, nonce), 1)
    one_time = chacha20_block(key, 0, nonce)
    r = int.from_bytes(one_time[:16], "little") & 0x0FFFFFFC0FFFFFFC0FFFFFFC0FFFFFFF
    tag, data = 0, pad16(aad) + pad16(sealed) + struct.pack("<2Q", len(aad), len(sealed))
    for at in range(0, len(data), 16):
        tag = (tag + int.from_bytes(data[at : at + 16] + b"\1", "little")) * r % (2**130 - 5)
    tag = (tag + int.from_bytes(one_time[16:32], "little")) % 2**128
    return sealed + tag.to_bytes(16, "little")


def aes_field_mul(a, b):
    out = 0
    while b:
        out, a, b = out ^ (a if b & 1 else 0), a << 1 ^ (0x11B if a & 0x80 else 0), b >> 1
    return out


def aes_sbox():
    box = []
    for x in range(256):
        inverse = next((y for y in range(256) if aes_field_mul(x, y) == 1), 0)
        out = 0x63
        for turn in range(5):
            out ^= (inverse << turn | inverse >> (8 - turn)) & 0xFF
        box.append(out)
    return box


SBOX = aes_sbox()


def aes256_block(key, block):
    words = [key[at : at + 4] for at in range(0, 32, 4)]
    for number in range(8, 60):
        last = words[-1]
        if number % 8 == 0:
            last = bytes(SBOX[x] for x in last[1:] + last[:1])
            last = bytes([last[0] ^ 1 << (number // 8 - 1)]) + last[1:]
        elif number % 8 == 4:
            last = bytes(SBOX[x] for x in last)
        words.append(bytes(a ^ b for a, b in zip(words[-8], last)))
    rounds = [b"".join(words[at : at + 4]) for at in range(0, 60, 4)]
    state = bytes(a ^ b for a, b in zip(block, rounds[0]))
    for number in range(1, 15):
        state = bytes(SBOX[state[(at + 4 * (at % 4)) % 16]] for at in range(16))
        if number < 14:
            mixed = b""
            for at in range(0, 16, 4):
                c = state[at : at + 4]
                mixed += bytes(
                    aes_field_mul(c[i], 2) ^ aes_field_mul(c[(i + 1) % 4], 3) ^ c[(i + 2) % 4] ^ c[(i + 3) % 4]
                    for i in range(4)
                )
            state = mixed
        state = bytes(a ^ b for a, b in zip(state, rounds[number]))
    return state


def aes256_gcm(key, nonce, aad, plain):
    h = int.from_bytes(aes256_block(key, bytes(16)), "big")
    counter_block = lambda at: aes256_block(key, nonce + struct.pack(">I", at))
    sealed = xor_stream(plain, counter_block, 2)
    hashed, data = 0, pad16(aad) + pad16(sealed) + struct.pack(">2Q", 8 * len(aad), 8 * len(sealed))
    for at in range(0, len(data), 16):
        x, v = hashed ^ int.from_bytes(data[at : at + 16], "big"), h
        hashed = 0
        for bit in range(127, -1, -1):
            hashed ^= v if x >> bit & 1 else 0
            v = v >> 1 ^ (0xE1 << 120 if v & 1 else 0)
    tag = hashed ^ int.from_bytes(counter_block(1), "big")
    return sealed + tag.to_bytes(16, "big")


# ---------------------------------------------------------------- HKDF-SHA-256 (RFC 5869)


def hmac_sha256(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def hkdf_expand(key, info, length=32):
    out, block, number = b"", b"", 1
    while len(out) < length:
        block = hmac_sha256(key, block + info + bytes([number]))
        out, number = out + block, number + 1
    return out[:length]


# ---------------------------------------------------------------- published vectors


def check_primitives():
    unhex = bytes.fromhex
    assert blake3(b"").hex() == "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
    # The official test_vectors.json: 3,073 bytes, each its position modulo 251.
    long = bytes(at % 251 for at in range(3073))
    assert blake3(long).hex() == "7124b49501012f81cc7f11ca069ec9226cecb8a2c850cfe644e327d22d3e1cd3"
    context = "BLAKE3 2019-12-27 16:29:52 test vectors context"
    assert blake3_derive_key(context, b"").hex() == "2cc39783c223154fea8dfb7c1b1660f2ac2dcbd1c1de8277b0b0dd39b7e50d7d"
    # RFC 7748, 5.2
    scalar = unhex("a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4")
    u = unhex("e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c")
    assert x25519(scalar, u).hex() == "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552"
    # draft-irtf-cfrg-cpace, the appendix on CPACE-RISTR255-SHA512
    ci, sid = unhex("6f630b425f726573706f6e6465720b415f696e69746961746f72"), unhex("7e4b4791d6a8ef019b936c79fb7f2c57")
    g = cpace_generator(b"Password", ci, sid)
    assert ristretto_encode(g).hex() == "a6fc82c3b8968fbb2e06fee81ca858586dea50d248f0c7ca6a18b0902a30b36b"
    a = int.from_bytes(unhex("da3d23700a9e5699258aef94dc060dfda5ebb61f02a5ea77fad53f4ff0976d08"), "little")
    b = int.from_bytes(unhex("d2316b454718c35362d83d69df6320f38578ed5984651435e2949762d900b80d"), "little")
    ya, yb = (ristretto_encode(edwards_mul(k, g)) for k in (a, b))
    assert ya.hex() == "d40fb265a7abeaee7939d91a585fe59f7053f982c296ec413c624c669308f87a"
    assert yb.hex() == "08bcf6e9777a9c313a3db6daa510f2d398403319c2341bd506a92e672eb7e307"
    isk = cpace_isk(sid, a, yb, ya, b"ADa", yb, b"ADb")
    assert isk == cpace_isk(sid, b, ya, ya, b"ADa", yb, b"ADb")
    assert isk.hex().startswith("4c5469a16b2364c4b944ebc1a79e51d1674ad47db26e8718154f59faebfaa52d")
    # RFC 8439, 2.8.2
    sunscreen = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, "
        b"sunscreen would be it."
    )
    sealed = chacha20_poly1305(
        bytes(range(0x80, 0xA0)), unhex("070000004041424344454647"), unhex("50515253c0c1c2c3c4c5c6c7"), sunscreen
    )
    assert (
        sealed.hex().startswith("d31a8d34648e60db7b86afbc53ef7ec2")
        and sealed[-16:].hex() == "1ae10b594f09e26a7e902ecbd0600691"
    )
    # The GCM specification (McGrew, Viega), test cases 14 and 16
    assert aes256_gcm(bytes(32), bytes(12), b"", bytes(16)).hex() == (
        "cea7403d4d606b6e074ec5d3baf39d18" "d0d1c8a799996bf0265b98b5d48ab919"
    )
    sealed = aes256_gcm(
        unhex("feffe9928665731c6d6a8f9467308308" * 2),
        unhex("cafebabefacedbaddecaf888"),
        unhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"),
        unhex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        ),
    )
    assert sealed[-16:].hex() == "76fc6ece0f4e1768cddf8853bb2d551b"
    # RFC 5869, A.1
    prk = hmac_sha256(bytes(range(13)), b"\x0b" * 22)
    assert (
        hkdf_expand(prk, bytes(range(0xF0, 0xFA)), 42)
        .hex()
        .startswith("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c")
    )


# ---------------------------------------------------------------- postcard (its wire format specification)


def varint(n):
    return leb128(n)


def blob(data):
    return varint(len(data)) + data


def hello(features, lowest=1, highest=1):
    return b"tlw\x01" + varint(lowest) + varint(highest) + varint(features)


def frame(body):
    return struct.pack(">I", len(body)) + body


# ---------------------------------------------------------------- the vectors

CODE, AGAIN = 0, 1
NO_AES, VERIFY, NO_P2P = 1, 2, 4
SENDER, RECEIVER = 0, 1


def pattern(length, start):
    """Bytes that are easy to make and where no two neighbours are equal."""
    return bytes((start + 7 * at) % 256 for at in range(length))


def room_id(nameplate):
    return blake3_derive_key("tallow v1 room", nameplate.encode())


def codes(out):
    # What was typed, its nameplate, its password. None of these needs the word list: in the
    # second all words stand in full.
    rows = [
        ("team-hunter22", "team", "hunter22"),
        ("7-croissant-clock-banana", "7", "croissant-clock-banana"),
        ("  41  My  own..pass--phrase?!\n", "41", "my-own-pass-phrase"),
        ("X9.p@ss_w0rd/1", "x9", "p@ss_w0rd/1"),
    ]
    for number, (typed, nameplate, password) in enumerate(rows):
        out[f"code.{number}.typed"] = typed.encode()
        out[f"code.{number}.nameplate"] = nameplate.encode()
        out[f"code.{number}.password"] = password.encode()
        out[f"code.{number}.room"] = room_id(nameplate)


def relay_messages(out):
    room = room_id("7")
    owner = pattern(16, 3)
    v4 = varint(0) + bytes([192, 0, 2, 1]) + varint(4433)
    v6 = varint(1) + bytes.fromhex("20010db8000000000000000000000001") + varint(443)
    rows = {
        "client.hello": varint(0) + hello(VERIFY | NO_P2P),
        "client.allocate": varint(2) + owner,
        "client.join": varint(3) + room + varint(RECEIVER) + owner + b"\0",
        "relay.hello.v4": varint(0) + hello(0) + v4 + bytes(16),
        "relay.hello.v6": varint(0) + hello(0) + v6 + pattern(16, 5),
        "relay.allocated": varint(1) + varint(300),
        "relay.paired": varint(3) + b"\x10",
        "relay.refused": varint(5) + varint(2) + varint(30),
    }
    for name, body in rows.items():
        out[f"frame.{name}"] = frame(body)


def handshake(out):
    nameplate, password, features_a, features_b = "7", b"croissant-clock-banana", VERIFY, NO_AES
    room, sid = room_id(nameplate), pattern(16, 1)
    out["handshake.nameplate"], out["handshake.password"], out["handshake.sid"] = nameplate.encode(), password, sid

    ci = lv(b"tallow/1", b"sender", b"receiver", room)
    g = cpace_generator(password, ci, sid)
    scalars = [int.from_bytes(blake3(who), "little") % ORDER for who in (b"sender", b"receiver")]
    ya, yb = (ristretto_encode(edwards_mul(scalar, g)) for scalar in scalars)
    k_pake = cpace_isk(sid, scalars[0], yb, ya, b"", yb, b"")
    assert k_pake == cpace_isk(sid, scalars[1], ya, ya, b"", yb, b"")
    out["cpace.ci"], out["cpace.generator"] = ci, ristretto_encode(g)
    for side, scalar, share in zip(("sender", "receiver"), scalars, (ya, yb)):
        out[f"cpace.scalar.{side}"] = scalar.to_bytes(32, "little")
        out[f"cpace.share.{side}"] = share
    out["cpace.isk"] = k_pake

    secrets = [blake3(b"x25519 " + who) for who in (b"sender", b"receiver")]
    base = (9).to_bytes(32, "little")
    public = [x25519(secret, base) for secret in secrets]
    k_x25519 = x25519(secrets[0], public[1])
    assert k_x25519 == x25519(secrets[1], public[0])
    for side, secret, key in zip(("sender", "receiver"), secrets, public):
        out[f"x25519.secret.{side}"], out[f"x25519.public.{side}"] = secret, key
    out["x25519.shared"] = k_x25519

    # ML-KEM has vectors of its own (FIPS 203). What stands here for key and ciphertext is only a pattern.
    encapsulation_key, ciphertext, k_ml_kem = pattern(1568, 11), pattern(1568, 13), blake3(b"ml-kem")
    out["ml_kem.shared"] = k_ml_kem

    h1 = varint(0) + hello(features_a) + varint(CODE) + sid + blob(ya) + public[0] + blob(encapsulation_key)
    said = varint(1) + hello(features_b) + varint(1) + blob(yb) + public[1] + blob(ciphertext)
    transcript = blake3_derive_key(
        "tallow v1 handshake", struct.pack(">I", len(h1)) + h1 + struct.pack(">I", len(said)) + said + room
    )
    out["schedule.transcript"] = transcript
    ikm = b"".join(struct.pack(">I", len(secret)) + secret for secret in (k_pake, k_x25519, k_ml_kem))
    master = hmac_sha256(transcript, ikm)
    out["schedule.master"] = master
    expanded = {}
    labels = ("confirm sender", "confirm receiver", "records sender", "records receiver", "reconnect", "verifier")
    for label in labels:
        expanded[label] = hkdf_expand(master, b"tallow v1 " + label.encode())
        out["schedule." + label.replace(" ", ".")] = expanded[label]
    confirmations = [hmac_sha256(expanded["confirm " + side], transcript) for side in ("sender", "receiver")]
    out["schedule.mac.sender"], out["schedule.mac.receiver"] = confirmations

    number, digits = int.from_bytes(expanded["verifier"][:16], "big") % 1296**7, []
    for _ in range(7):
        number, digit = divmod(number, 1296)
        digits.insert(0, digit)
    out["schedule.verifier.words"] = " ".join(str(digit) for digit in digits)

    for label in ("room", "psk", "owner sender", "owner receiver"):
        length = 16 if label.startswith("owner") else 32
        key = hkdf_expand(expanded["reconnect"], b"tallow v1 again " + label.encode(), length)
        out["again." + label.replace(" ", ".")] = key

    out["frame.h1"] = frame(h1)
    out["frame.h2"] = frame(said + confirmations[1])
    out["frame.h3"] = frame(varint(2) + confirmations[0])
    out["frame.wrong_code"] = frame(varint(3))
    out["frame.unsupported_version"] = frame(varint(4) + varint(1) + varint(1))
    again_h1 = varint(0) + hello(features_a) + varint(AGAIN) + sid + blob(b"") + public[0] + blob(encapsulation_key)
    out["frame.h1.again"] = frame(again_h1)
    return expanded


def records(out, keys):
    data = b"hello, world"
    # transfer, index, codec, length, hash, bytes
    chunk = struct.pack(">IQBI", 1, 2, 0, len(data)) + blake3(data) + data
    rows = [
        ("control", 0, "records sender", 0, 0, b"a control record's plaintext"),
        ("chunk", 1, "records receiver", 0x01020304, 0x05060708090A0B0C, chunk),
        ("empty", 0, "records sender", 0xFFFFFFFF, 2**64 - 1, b""),
    ]
    for name, kind, direction, lane, number, plain in rows:
        header = struct.pack(">BIQ", kind, lane, number)
        key = hkdf_expand(keys[direction], b"tallow v1 lane" + struct.pack(">I", lane))
        nonce = header[1:]
        out[f"record.{name}.lane_key"] = key
        out[f"record.{name}.header"] = header
        out[f"record.{name}.plaintext"] = plain
        out[f"frame.record.{name}.aes"] = frame(header + aes256_gcm(key, nonce, header, plain))
        out[f"frame.record.{name}.chacha"] = frame(header + chacha20_poly1305(key, nonce, header, plain))


def main():
    check_primitives()
    out = {}
    codes(out)
    relay_messages(out)
    records(out, handshake(out))
    shown = {name: value if isinstance(value, str) else value.hex() for name, value in out.items()}
    text = json.dumps(shown, indent=0) + "\n"
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "vectors.json")
    if "--check" in sys.argv[1:]:
        with open(path, encoding="ascii") as file:
            sys.exit(0 if file.read() == text else "vectors.json is not what make.py makes")
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


if __name__ == "__main__":
    main()
