//! What every backend must do, a function for each sentence, run for all of them; and what the
//! embedded one must do besides.
#![expect(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod compaction;
mod copies;
mod durable;
mod epochs;
mod fences;
mod kit;
mod secrets;
mod since;
mod tampered;
mod watching;
mod writing;

/// Runs each function once for each backend. One that is not listed is dead code, which clippy says.
macro_rules! every_backend {
    ($($module:ident: $($test:ident),+ $(,)?;)+) => {
        mod memory {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let kit = crate::kit::Kit::memory();
                    crate::kit::in_time(crate::$module::$test(&kit)).await;
                }
            )+)+
        }
        mod embedded {
            $($(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $test() {
                    let kit = crate::kit::Kit::embedded();
                    crate::kit::in_time(crate::$module::$test(&kit)).await;
                }
            )+)+
        }
    };
}

every_backend! {
    writing:
        own_writes_take_the_next_revisions,
        the_same_content_again_changes_nothing,
        an_envelope_that_differs_is_a_change,
        what_is_expected_is_checked_first,
        a_deletion_takes_a_revision_of_its_own,
        deleting_what_is_not_there_is_an_error,
        a_transaction_is_done_whole_or_not_at_all,
        writes_of_a_transaction_see_those_before_them,
        only_ones_own_documents_are_written,
        a_document_has_at_most_512_kib,
        a_caller_has_at_most_100_writes_and_a_batch_any_number,
        s56_concurrent_writers_lose_no_update,
        a_listing_has_what_the_filter_covers,
        the_rolling_hash_is_known_at_every_revision,
        whoever_observes_is_told_of_every_read_and_write;
    copies:
        copies_keep_their_versions,
        an_older_copy_never_replaces_a_later_one,
        a_late_copy_does_not_undo_a_deletion,
        an_earlier_deletion_leaves_a_later_copy,
        a_deletion_of_what_was_never_held_is_passed_on,
        worlds_advance_and_never_go_back,
        a_copy_must_come_from_another_origin,
        a_batch_applied_twice_changes_nothing,
        what_left_without_being_deleted_comes_back_as_it_was,
        what_came_long_after_it_was_written_is_told_to_who_was_past_it,
        an_epoch_of_another_that_is_passed_on_is_told_without_all_others,
        who_knows_more_of_another_than_was_told_as_a_difference_is_told_everything;
    watching:
        a_watch_sees_every_change_after_its_start,
        a_transaction_is_seen_as_one,
        nothing_is_missed_or_repeated_while_others_write,
        a_slow_watcher_catches_up,
        giving_up_waiting_loses_nothing,
        a_watch_from_before_the_log_is_told_to_list_again,
        a_watch_from_the_future_is_told_to_list_again,
        a_large_log_is_cut_by_bytes_too,
        a_watch_ends_with_the_store;
    compaction:
        history_is_let_go_when_it_is_old,
        compaction_never_breaks_a_watch;
    since:
        who_has_everything_lacks_nothing,
        who_has_nothing_lacks_everything,
        forgotten_deletions_make_it_whole,
        another_epoch_makes_it_whole,
        the_filter_bounds_what_is_lacked,
        replaying_what_is_lacked_gives_the_same_store;
    fences:
        a_batch_of_an_earlier_session_is_refused_whole,
        lanes_do_not_concern_each_other,
        a_forgotten_lane_refuses_what_it_once_took,
        whoever_takes_the_lane_last_writes_it;
    epochs:
        a_new_epoch_is_above_everything_and_goes_on_from_what_is_written,
        an_epoch_begins_once_however_many_ask,
        a_line_that_is_taken_up_again_goes_on_from_where_it_was,
        a_history_that_no_longer_counts_gives_way_to_older_numbers;
    secrets:
        private_values_are_kept,
        a_private_value_is_kept_with_its_transaction_or_not_at_all,
        private_values_are_no_documents,
        a_private_value_that_was_deleted_is_gone,
        secret_documents_read_back_as_they_were;
}
