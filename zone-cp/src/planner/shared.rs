//! Names of parts, and parts, held once however many proxies have them; and compiled once for all that are alike.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Weak};

use bytes::Bytes;
use model::DocumentKey;
use snapshot::compile::Class;
use snapshot::parts::PartName;
use snapshot::{Proxy, View, compile};
use sync::{Body, Digest};

use super::Wants;

#[derive(Default)]
pub(super) struct Shared {
    names: Wants,
    /// What proxies subscribed to: many to the same.
    wants: BTreeSet<Arc<Wants>>,
    bodies: HashMap<Digest, Weak<Body>>,
    /// What was compiled for a class of proxies.
    compiled: BTreeMap<Arc<Class>, Compiled>,
    /// When so much is held, it is looked for what nobody has any more.
    review_at: usize,
}

/// Parts by name, none where there is nothing to tell.
type Compiled = BTreeMap<Arc<str>, Option<Arc<Body>>>;

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

    /// What a proxy subscribed to; it is forgotten when nobody has it any more.
    pub(super) fn wants(&mut self, wants: Wants) -> Arc<Wants> {
        if let Some(wants) = self.wants.get(&wants) {
            return wants.clone();
        }
        self.wants.retain(|wants| Arc::strong_count(wants) > 1);
        let wants = Arc::new(wants);
        self.wants.insert(wants.clone());
        wants
    }

    /// A class of which somebody is; it is forgotten when nobody is any more.
    pub(super) fn class(&mut self, class: Class) -> Arc<Class> {
        if let Some((class, _)) = self.compiled.get_key_value(&class) {
            return class.clone();
        }
        let class = Arc::new(class);
        self.compiled.insert(class.clone(), BTreeMap::new());
        class
    }

    /// A part of a proxy, which is of a class where the part is; none where there is nothing to tell.
    pub(super) fn part(
        &mut self,
        view: &View,
        proxy: &Proxy<'_>,
        class: Option<&Arc<Class>>,
        (text, name): (&Arc<str>, &PartName),
    ) -> Option<Arc<Body>> {
        let Some(class) = class else {
            return compile(view, proxy, name).map(|bytes| body(&mut self.bodies, bytes));
        };
        let compiled = self.compiled.entry(class.clone()).or_default();
        if let Some(part) = compiled.get(text) {
            return part.clone();
        }
        let part = compile(view, proxy, name).map(|bytes| body(&mut self.bodies, bytes));
        compiled.insert(text.clone(), part.clone());
        part
    }

    /// Forgets what is to be compiled anew.
    pub(super) fn changed(&mut self, changed: &[&DocumentKey]) {
        self.compiled.retain(|class, _| Arc::strong_count(class) > 1);
        for (class, parts) in &mut self.compiled {
            parts.retain(|text, _| {
                let name = self.names.get(text);
                name.is_some_and(|name| !changed.iter().any(|key| compile::concerns_class(key, class, name)))
            });
        }
        self.review();
    }

    /// Forgets what nobody has any more, now and then.
    pub(super) fn review(&mut self) {
        if self.held() < self.review_at.max(FEW) {
            return;
        }
        self.wants.retain(|wants| Arc::strong_count(wants) > 1);
        // Two hold a name here: its entry, and what was compiled under it.
        let is_wanted =
            |names: &Wants, text: &Arc<str>| names.get(text).is_some_and(|name| Arc::strong_count(name) > 1);
        for parts in self.compiled.values_mut() {
            parts.retain(|text, _| is_wanted(&self.names, text));
        }
        self.compiled.retain(|class, _| Arc::strong_count(class) > 1);
        self.names.retain(|_, name| Arc::strong_count(name) > 1);
        self.bodies.retain(|_, body| body.strong_count() > 0);
        self.review_at = 2 * self.held();
    }

    /// How much is held.
    pub(super) fn held(&self) -> usize {
        let compiled: usize = self.compiled.values().map(|parts| 1 + parts.len()).sum();
        self.names.len() + self.bodies.len() + compiled
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
