//! Names of parts, and parts, held once however many proxies have them; and compiled once for all that are alike.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use model::DocumentKey;
use snapshot::compile::Class;
use snapshot::parts::PartName;
use snapshot::{Proxy, View, compile};
use sync::{Body, Digest};

#[derive(Default)]
pub(super) struct Shared {
    names: BTreeMap<Arc<str>, Arc<PartName>>,
    bodies: HashMap<Digest, Weak<Body>>,
    /// What was compiled for a class of proxies, none where there is nothing to tell.
    compiled: BTreeMap<Class, BTreeMap<Arc<str>, Option<Arc<Body>>>>,
    /// When so much is held, it is looked for what nobody has any more.
    review_at: usize,
}

const FEW: usize = 1024;

impl Shared {
    /// None for the name of something that this zone does not know as a part.
    pub(super) fn name(&mut self, text: &str) -> Option<(Arc<str>, Arc<PartName>)> {
        if let Some((text, name)) = self.names.get_key_value(text) {
            return Some((text.clone(), name.clone()));
        }
        let (text, name) = (Arc::<str>::from(text), Arc::new(text.parse().ok()?));
        self.names.insert(text.clone(), Arc::clone(&name));
        Some((text, name))
    }

    /// A part of a proxy of that class; none where there is nothing to tell.
    pub(super) fn part(
        &mut self,
        view: &View,
        proxy: &Proxy<'_>,
        class: &Class,
        (text, name): (&Arc<str>, &PartName),
    ) -> Option<Arc<Body>> {
        if !compile::is_of_class(name) {
            return compile(view, proxy, name).map(|bytes| body(&mut self.bodies, bytes));
        }
        if !self.compiled.contains_key(class) {
            self.compiled.insert(class.clone(), BTreeMap::new());
        }
        let compiled = self.compiled.get_mut(class)?;
        if let Some(part) = compiled.get(text) {
            return part.clone();
        }
        let part = compile(view, proxy, name).map(|bytes| body(&mut self.bodies, bytes));
        compiled.insert(text.clone(), part.clone());
        part
    }

    /// Forgets what is to be compiled anew.
    pub(super) fn changed(&mut self, changed: &[&DocumentKey]) {
        for (class, parts) in &mut self.compiled {
            parts.retain(|text, _| {
                let name = self.names.get(text);
                name.is_some_and(|name| !changed.iter().any(|key| compile::concerns_class(key, class, name)))
            });
        }
        self.review();
    }

    pub(super) fn clear(&mut self) {
        self.compiled.clear();
    }

    /// Forgets what nobody has any more, now and then.
    pub(super) fn review(&mut self) {
        let held = |shared: &Self| {
            let compiled: usize = shared.compiled.values().map(BTreeMap::len).sum();
            shared.names.len() + shared.bodies.len() + compiled
        };
        if held(self) < self.review_at.max(FEW) {
            return;
        }
        // Two hold a name here: its entry, and what was compiled under it.
        let is_wanted = |names: &BTreeMap<Arc<str>, Arc<PartName>>, text: &Arc<str>| {
            names.get(text).is_some_and(|name| Arc::strong_count(name) > 1)
        };
        for parts in self.compiled.values_mut() {
            parts.retain(|text, _| is_wanted(&self.names, text));
        }
        self.compiled.retain(|_, parts| !parts.is_empty());
        self.names.retain(|_, name| Arc::strong_count(name) > 1);
        self.bodies.retain(|_, body| body.strong_count() > 0);
        self.review_at = 2 * held(self);
    }
}

fn body(bodies: &mut HashMap<Digest, Weak<Body>>, bytes: Bytes) -> Arc<Body> {
    let new = Body::new(bytes);
    let known = bodies.entry(new.digest).or_default();
    known.upgrade().unwrap_or_else(|| {
        *known = Arc::downgrade(&new);
        new
    })
}
