"""SHA-256 of published files: TemplateFlow's tables, as its client 25.1.2 brings them, and images that are known.

Of the others the first fetch is recorded and held to.
"""

SHA256 = {
    "cc200_roi_atlas.nii.gz": ("9467afce23ad7197fbbc8c96aadc8c0c2e36d4938445e3c1570a5deac489c650"),
    "tpl-MNI152NLin2009cAsym_atlas-DiFuMo_desc-1024dimensions_probseg.tsv": (
        "3b4683dc79129746f4290025c0eda2d32342a031848828ac60ff6feaf3de4b32"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-DiFuMo_desc-128dimensions_probseg.tsv": (
        "7f2ebe99af2b027d31d47854bbdd6cd6d2dc666dd798fed21fedcc59bbc9c546"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-DiFuMo_desc-256dimensions_probseg.tsv": (
        "57cd579cf35df6e3e5c2252ff9a699e40e7a0055313d355ec133555f89a49dfe"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-DiFuMo_desc-512dimensions_probseg.tsv": (
        "fa2dffd656763760345b0879806494a2b307f5e20b60f0a9604c867b10f3b844"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-DiFuMo_desc-64dimensions_probseg.tsv": (
        "7c286db6b29cfdf46c9abc3d8f1a696093b82c73c10f2e78b7ff5e6530a15688"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-1000Parcels17Networks_dseg.tsv": (
        "58ce97599ef537abccab475d2d570810b421f5820566efbb3e36c2a26ca7b4a5"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-1000Parcels7Networks_dseg.tsv": (
        "f0fe4a0db6bac7dce520ef0ff7550ae3960a651b499f2b464f8d761da3a533e2"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-100Parcels17Networks_dseg.tsv": (
        "c6b3730ead16557c1699a06603198b99b5b7e0afdc64c85791c5c4bfed30f833"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-100Parcels7Networks_dseg.tsv": (
        "a81a63f67fdaffd7b2b4b6c7df05f75b16899cba70100f464bbccba0a257cc6c"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-200Parcels17Networks_dseg.tsv": (
        "1aaa1038aa8ebc0054c843642147e96e7e9a849c71729a2700fb329c091d4ac4"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-200Parcels7Networks_dseg.tsv": (
        "32089161a6f8dc3c6dc5b545ba26ad65febbbf314088e194f28e1133649e6f3d"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-300Parcels17Networks_dseg.tsv": (
        "090e587a76fe60b97369a1d779100d7fc303527acca0fb2d71128b59d4df8cdc"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-300Parcels7Networks_dseg.tsv": (
        "681505ccc7933e58038cbba2c2cca9aa3bc6cec57a670db55259989c539c71d8"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-400Parcels17Networks_dseg.tsv": (
        "397f737ad575f60f66122e6f121bf5093e8845dc729d094cb170c20960275604"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.tsv": (
        "91fe503df22267bb6c9ab3b9e9e82eec0e08f496d4f9dcb9661e67d1abb14f07"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-500Parcels17Networks_dseg.tsv": (
        "e70dd3ad9a5141400a385a11a9cd829602c29b5d4ea3568d9a3f1aea50d42590"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-500Parcels7Networks_dseg.tsv": (
        "ff36cf9bd72413649de238613f4d989e7f946d8c0e8e99538e8c6e68f26ed781"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-600Parcels17Networks_dseg.tsv": (
        "65f86e1d999723177c65246241441069868ced34d98a10034e061322ec9216cc"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-600Parcels7Networks_dseg.tsv": (
        "4a90388894df3ed5a7dfdcb0d1d98ce82f1705419c352aaf5640e595392b4a69"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-800Parcels17Networks_dseg.tsv": (
        "fd1a814c9d5827f11b9a14b600b717938af285640710d3c1080625a9462b3481"
    ),
    "tpl-MNI152NLin2009cAsym_atlas-Schaefer2018_desc-800Parcels7Networks_dseg.tsv": (
        "c92720b5407553e7ef05193d95fec5a0c02c8896636ba023164f3f5dd423de6d"
    ),
    "tpl-MNI152NLin2009cAsym_res-02_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.nii.gz": (
        "e5dfdc5674fe6122609fa8d223d7d7c17f989ff1b03d7746559c95b11da1d264"
    ),
    "tpl-MNI152NLin6Asym_atlas-DiFuMo_desc-1024dimensions_probseg.tsv": (
        "3b4683dc79129746f4290025c0eda2d32342a031848828ac60ff6feaf3de4b32"
    ),
    "tpl-MNI152NLin6Asym_atlas-DiFuMo_desc-128dimensions_probseg.tsv": (
        "7f2ebe99af2b027d31d47854bbdd6cd6d2dc666dd798fed21fedcc59bbc9c546"
    ),
    "tpl-MNI152NLin6Asym_atlas-DiFuMo_desc-256dimensions_probseg.tsv": (
        "57cd579cf35df6e3e5c2252ff9a699e40e7a0055313d355ec133555f89a49dfe"
    ),
    "tpl-MNI152NLin6Asym_atlas-DiFuMo_desc-512dimensions_probseg.tsv": (
        "fa2dffd656763760345b0879806494a2b307f5e20b60f0a9604c867b10f3b844"
    ),
    "tpl-MNI152NLin6Asym_atlas-DiFuMo_desc-64dimensions_probseg.tsv": (
        "7c286db6b29cfdf46c9abc3d8f1a696093b82c73c10f2e78b7ff5e6530a15688"
    ),
    "tpl-MNI152NLin6Asym_atlas-HOCPAL_dseg.tsv": ("91ed5531f39472fa3e39f4f70766b6cf8ad0e22259796a95a92924616c974583"),
    "tpl-MNI152NLin6Asym_atlas-HOCPA_dseg.tsv": ("5419f44f2002f7ecfe6051342cb8080ca3c7590b42cabe9aa69723cbb84596e1"),
    "tpl-MNI152NLin6Asym_atlas-HOSPA_dseg.tsv": ("0503599182be67d206deb8b6c6d3288fa9eecba3e1a158008c649d1836573d25"),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-1000Parcels17Networks_dseg.tsv": (
        "58ce97599ef537abccab475d2d570810b421f5820566efbb3e36c2a26ca7b4a5"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-1000Parcels7Networks_dseg.tsv": (
        "f0fe4a0db6bac7dce520ef0ff7550ae3960a651b499f2b464f8d761da3a533e2"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-100Parcels17Networks_dseg.tsv": (
        "c6b3730ead16557c1699a06603198b99b5b7e0afdc64c85791c5c4bfed30f833"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-100Parcels7Networks_dseg.tsv": (
        "a81a63f67fdaffd7b2b4b6c7df05f75b16899cba70100f464bbccba0a257cc6c"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-200Parcels17Networks_dseg.tsv": (
        "1aaa1038aa8ebc0054c843642147e96e7e9a849c71729a2700fb329c091d4ac4"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-200Parcels7Networks_dseg.tsv": (
        "32089161a6f8dc3c6dc5b545ba26ad65febbbf314088e194f28e1133649e6f3d"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-300Parcels17Networks_dseg.tsv": (
        "090e587a76fe60b97369a1d779100d7fc303527acca0fb2d71128b59d4df8cdc"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-300Parcels7Networks_dseg.tsv": (
        "681505ccc7933e58038cbba2c2cca9aa3bc6cec57a670db55259989c539c71d8"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-400Parcels17Networks_dseg.tsv": (
        "397f737ad575f60f66122e6f121bf5093e8845dc729d094cb170c20960275604"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-400Parcels7Networks_dseg.tsv": (
        "91fe503df22267bb6c9ab3b9e9e82eec0e08f496d4f9dcb9661e67d1abb14f07"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-500Parcels17Networks_dseg.tsv": (
        "e70dd3ad9a5141400a385a11a9cd829602c29b5d4ea3568d9a3f1aea50d42590"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-500Parcels7Networks_dseg.tsv": (
        "ff36cf9bd72413649de238613f4d989e7f946d8c0e8e99538e8c6e68f26ed781"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-600Parcels17Networks_dseg.tsv": (
        "65f86e1d999723177c65246241441069868ced34d98a10034e061322ec9216cc"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-600Parcels7Networks_dseg.tsv": (
        "4a90388894df3ed5a7dfdcb0d1d98ce82f1705419c352aaf5640e595392b4a69"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-800Parcels17Networks_dseg.tsv": (
        "fd1a814c9d5827f11b9a14b600b717938af285640710d3c1080625a9462b3481"
    ),
    "tpl-MNI152NLin6Asym_atlas-Schaefer2018_desc-800Parcels7Networks_dseg.tsv": (
        "c92720b5407553e7ef05193d95fec5a0c02c8896636ba023164f3f5dd423de6d"
    ),
}
