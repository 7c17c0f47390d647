# SPDX-License-Identifier: Apache-2.0
"""Uses of keys, of every form that is let through."""

from hypothesis import strategies as st

from tightseal.model.keyuse import KeyUse, Operation

USES = (
    st.builds(KeyUse, st.just(Operation.SIGN), st.binary(max_size=40))
    | st.builds(
        KeyUse,
        st.just(Operation.AGREE),
        st.sampled_from((32, 33, 65)).flatmap(
            lambda n: st.binary(min_size=n, max_size=n)
        ),
    )
    | st.builds(
        KeyUse,
        st.just(Operation.UNWRAP),
        st.binary(min_size=64, max_size=112),
        st.binary(max_size=512),
    )
)
