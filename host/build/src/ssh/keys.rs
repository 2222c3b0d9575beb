//! Private keys of ssh, and signing with them (RFC 4253 section 6.6, RFC 5656, RFC 8332, RFC 8709).

use num_bigint::BigUint;
use ring::rand::SystemRandom;
use ring::rsa::{self, PublicKeyComponents};
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, RsaEncoding};
use ssh_key::PrivateKey;
use ssh_key::private::{EcdsaKeypair, KeypairData, RsaKeypair};

/// Flags of a request to sign with an RSA key; without one it would be SHA-1, which nobody takes any more.
const RSA_SHA2_256: u32 = 2;

/// A private key, ready to sign.
pub(super) struct Key {
    public: Vec<u8>,
    comment: String,
    pair: Pair,
}

enum Pair {
    Ed25519(Ed25519KeyPair),
    Ecdsa(&'static str, EcdsaKeyPair),
    Rsa(rsa::KeyPair),
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Key({})", self.comment)
    }
}

impl Key {
    /// Reads a key in OpenSSH's format.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let key = PrivateKey::from_openssh(text).map_err(|error| {
            format!("it is no private key in OpenSSH's format ({error}); `ssh-keygen -p -f FILE` rewrites older ones")
        })?;
        if key.is_encrypted() {
            return Err("it has a passphrase: add it to an ssh agent and pass that on, with --ssh default".into());
        }
        let refused = |what: &str| format!("its {what} key is not well formed");
        let pair = match key.key_data() {
            KeypairData::Ed25519(pair) => {
                let pair = Ed25519KeyPair::from_seed_unchecked(&pair.private.to_bytes());
                Pair::Ed25519(pair.map_err(|_| refused("Ed25519"))?)
            }
            KeypairData::Ecdsa(pair) => {
                let (name, algorithm) = match pair {
                    EcdsaKeypair::NistP256 { .. } => ("nistp256", &signature::ECDSA_P256_SHA256_FIXED_SIGNING),
                    EcdsaKeypair::NistP384 { .. } => ("nistp384", &signature::ECDSA_P384_SHA384_FIXED_SIGNING),
                    EcdsaKeypair::NistP521 { .. } => return Err("ECDSA keys of 521 bits are not supported".into()),
                };
                let random = SystemRandom::new();
                let public = pair.public_key_bytes();
                let pair =
                    EcdsaKeyPair::from_private_key_and_public_key(algorithm, pair.private_key_bytes(), public, &random);
                Pair::Ecdsa(name, pair.map_err(|_| refused("ECDSA"))?)
            }
            KeypairData::Rsa(pair) => Pair::Rsa(rsa_pair(pair).ok_or_else(|| refused("RSA"))?),
            other => return Err(format!("keys of the kind {:?} are not supported", other.algorithm().ok())),
        };
        let public = key.public_key().to_bytes().map_err(|error| error.to_string())?;
        Ok(Self { public, comment: key.comment().to_owned(), pair })
    }

    /// The signature with the name of its algorithm in front.
    fn sign(&self, data: &[u8], flags: u32) -> Option<Vec<u8>> {
        let random = SystemRandom::new();
        let (algorithm, signature) = match &self.pair {
            Pair::Ed25519(pair) => ("ssh-ed25519".to_owned(), pair.sign(data).as_ref().to_vec()),
            Pair::Ecdsa(curve, pair) => {
                let signed = pair.sign(&random, data).ok()?;
                let (r, s) = signed.as_ref().split_at(signed.as_ref().len() / 2);
                (format!("ecdsa-sha2-{curve}"), [integer(r), integer(s)].concat())
            }
            Pair::Rsa(pair) => {
                let (name, padding): (_, &'static dyn RsaEncoding) = match flags & RSA_SHA2_256 {
                    0 => ("rsa-sha2-512", &signature::RSA_PKCS1_SHA512),
                    _ => ("rsa-sha2-256", &signature::RSA_PKCS1_SHA256),
                };
                let mut signed = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &random, data, &mut signed).ok()?;
                (name.to_owned(), signed)
            }
        };
        Some([string(algorithm.as_bytes()), string(&signature)].concat())
    }
}

fn rsa_pair(pair: &RsaKeypair) -> Option<rsa::KeyPair> {
    let number = |mpint: &ssh_key::Mpint| mpint.as_positive_bytes().map(BigUint::from_bytes_be);
    let (private, public) = (&pair.private, &pair.public);
    let (d, p, q) = (number(&private.d)?, number(&private.p)?, number(&private.q)?);
    if p <= BigUint::from(1u8) || q <= BigUint::from(1u8) {
        return None;
    }
    let exponent = |prime: &BigUint| (&d % (prime - 1u8)).to_bytes_be();
    let components = rsa::KeyPairComponents {
        public_key: PublicKeyComponents { n: number(&public.n)?.to_bytes_be(), e: number(&public.e)?.to_bytes_be() },
        d: d.to_bytes_be(),
        dP: exponent(&p),
        dQ: exponent(&q),
        p: p.to_bytes_be(),
        q: q.to_bytes_be(),
        qInv: number(&private.iqmp)?.to_bytes_be(),
    };
    rsa::KeyPair::from_components(&components).ok()
}

/// The keys, as an agent lists them.
pub(super) fn list(keys: &[Key]) -> Vec<u8> {
    let mut answer = u32::try_from(keys.len()).unwrap_or(0).to_be_bytes().to_vec();
    for key in keys {
        answer.extend(string(&key.public));
        answer.extend(string(key.comment.as_bytes()));
    }
    answer
}

/// Answers a request to sign; none when it is malformed or for a key that is not here.
pub(super) fn sign(keys: &[Key], request: &[u8]) -> Option<Vec<u8>> {
    let (public, rest) = take(request)?;
    let (data, rest) = take(rest)?;
    let flags = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
    let key = keys.iter().find(|key| key.public == public)?;
    Some(string(&key.sign(data, flags)?))
}

/// A string of the protocol: length, bytes.
fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap_or(0).to_be_bytes()[..], bytes].concat()
}

/// A positive number of the protocol: no zeros in front but one that keeps it positive.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let bytes = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
    let sign: &[u8] = if bytes.first().is_some_and(|byte| byte & 0x80 != 0) { &[0] } else { &[] };
    string(&[sign, bytes].concat())
}

fn take(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let rest = &bytes[4..];
    (rest.len() >= length).then(|| rest.split_at(length))
}
