//! Names that thousands of peers say, held once.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

/// What the peers of one program subscribe to. Cheap to clone: all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Names(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    names: BTreeSet<Arc<str>>,
    /// With so many it is looked for those that nobody has any more.
    review_at: usize,
}

const FEW: usize = 1024;

impl Names {
    /// The one copy of a name.
    pub fn get(&self, name: &str) -> Arc<str> {
        // A set is right after each of its calls.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = known.names.get(name) {
            return name.clone();
        }
        if known.names.len() >= known.review_at.max(FEW) {
            known.names.retain(|name| Arc::strong_count(name) > 1);
            known.review_at = 2 * known.names.len();
        }
        let name = Arc::<str>::from(name);
        known.names.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_held_once_and_no_longer_than_somebody_has_it() {
        let names = Names::default();
        let kept = names.get("kept");
        assert!(Arc::ptr_eq(&kept, &names.get("kept")));
        for n in 0..10 * FEW {
            names.get(&n.to_string());
        }
        let held = names.0.lock().unwrap().names.len();
        assert!(held <= FEW + 1, "{held}");
        assert!(Arc::ptr_eq(&kept, &names.get("kept")));
    }
}
