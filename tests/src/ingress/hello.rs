//! ClientHellos made by hand: those that no TLS library would send included.

/// A ClientHello of TLS 1.3 with little in it.
pub(super) struct Hello {
    names: Vec<String>,
}

impl Hello {
    pub(super) fn to(name: &str) -> Self {
        Self { names: vec![name.to_owned()] }
    }

    pub(super) fn nameless() -> Self {
        Self { names: Vec::new() }
    }

    /// One more in the list of names, of which there may be only one.
    pub(super) fn and(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// In one record.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut extensions = [
            // supported_versions: TLS 1.3; signature_algorithms: ecdsa_secp256r1_sha256.
            extension(43, &[2, 3, 4]),
            extension(13, &[0, 2, 4, 3]),
        ]
        .concat();
        if !self.names.is_empty() {
            let name = |name: &String| [&[0], &prefixed(name.as_bytes())[..]].concat();
            let names: Vec<u8> = self.names.iter().flat_map(name).collect();
            extensions.extend(extension(0, &prefixed(&names)));
        }
        let mut body = vec![3, 3];
        body.extend([0x5a; 32]);
        // No session, TLS_AES_128_GCM_SHA256, no compression.
        body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
        body.extend(prefixed(&extensions));
        let message = [&[1, 0][..], &prefixed(&body)].concat();
        records(&message, message.len())
    }
}

/// A handshake message in records of this size.
pub(super) fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [&[22, 3, 1], &prefixed(part)[..]].concat()).collect()
}

fn extension(number: u16, content: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes()[..], &prefixed(content)].concat()
}

fn prefixed(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u16).to_be_bytes()[..], content].concat()
}
